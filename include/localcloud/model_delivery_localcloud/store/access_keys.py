"""Access keys: who may sign requests, for which account and regions."""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store.sealing import Sealer
from model_delivery_localcloud.store.tables import AccessKey


@dataclass(frozen=True)
class KnownKey:
    """An access key as the verifier needs it; `regions` empty means every region."""

    access_key_id: str
    account: str
    regions: tuple[str, ...]
    secret: str = field(repr=False)


def add_access_key(
    session: Session,
    sealer: Sealer,
    access_key_id: str,
    secret: str,
    account: str,
    regions: list[str],
) -> None:
    """Store a key, replacing one of the same id."""
    session.merge(
        AccessKey(
            access_key_id=access_key_id,
            account=account,
            sealed_secret=sealer.seal(secret),
            regions=regions,
            created_at=now_ms(),
        )
    )


def find_access_key(session: Session, sealer: Sealer, access_key_id: str) -> KnownKey | None:
    """Return the key with its secret opened, or None."""
    row = session.get(AccessKey, access_key_id)
    if row is None:
        return None
    secret = sealer.open(row.sealed_secret, f"access key {access_key_id}")
    return KnownKey(row.access_key_id, row.account, tuple(row.regions), secret)
