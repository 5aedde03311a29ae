"""Settings of a localcloud process, read from its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_delivery_localcloud.errors import SettingsError

SHORTEST_SECRET = 32


@dataclass(frozen=True)
class Settings:
    """What a localcloud process needs to know. Secrets stay out of its repr.

    `home`: folder of the default database (`LOCALCLOUD_HOME`, default `.local/localcloud`).
    `database_url`: SQLAlchemy URL (`LOCALCLOUD_DATABASE_URL`, default SQLite in `home`).
    `secret_key`: at least 32 characters (`LOCALCLOUD_SECRET_KEY`): signs sessions and encrypts
    the stored access keys. `s3_*`: the object store (`LOCALCLOUD_S3_ENDPOINT_URL`,
    `LOCALCLOUD_S3_ACCESS_KEY_ID`, `LOCALCLOUD_S3_SECRET_ACCESS_KEY`); unset means AWS S3 with
    boto3's own credential chain. `public_url`: where people and devices reach this server
    (`LOCALCLOUD_PUBLIC_URL`); `https` makes the session cookie Secure.
    """

    home: Path
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    s3_endpoint_url: str | None = None
    s3_access_key_id: str | None = field(default=None, repr=False)
    s3_secret_access_key: str | None = field(default=None, repr=False)
    public_url: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings; raises SettingsError naming the variable that is wrong."""
        env = os.environ if environ is None else environ
        home = Path(env.get("LOCALCLOUD_HOME") or ".local/localcloud").absolute()
        secret_key = env.get("LOCALCLOUD_SECRET_KEY", "")
        if len(secret_key) < SHORTEST_SECRET:
            raise SettingsError(
                f"LOCALCLOUD_SECRET_KEY must hold at least {SHORTEST_SECRET} characters; make one "
                'with: python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
            )
        access_key = env.get("LOCALCLOUD_S3_ACCESS_KEY_ID") or None
        access_secret = env.get("LOCALCLOUD_S3_SECRET_ACCESS_KEY") or None
        if (access_key is None) != (access_secret is None):
            raise SettingsError(
                "set both LOCALCLOUD_S3_ACCESS_KEY_ID and LOCALCLOUD_S3_SECRET_ACCESS_KEY, or none"
            )
        return cls(
            home=home,
            database_url=env.get("LOCALCLOUD_DATABASE_URL")
            or f"sqlite:///{home / 'localcloud.db'}",
            secret_key=secret_key,
            s3_endpoint_url=env.get("LOCALCLOUD_S3_ENDPOINT_URL") or None,
            s3_access_key_id=access_key,
            s3_secret_access_key=access_secret,
            public_url=env.get("LOCALCLOUD_PUBLIC_URL") or None,
        )
