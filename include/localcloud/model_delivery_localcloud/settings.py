"""Settings of a localcloud process, read from its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_delivery_localcloud.errors import SettingsError
from model_delivery_localcloud.store.database import LOCK_SECONDS

SHORTEST_SECRET = 32


@dataclass(frozen=True)
class Settings:
    """What a localcloud process needs to know. Secrets stay out of its repr.

    `home`: folder of the default database (`LOCALCLOUD_HOME`, default `.local/localcloud`).
    `database_url`: SQLAlchemy URL (`LOCALCLOUD_DATABASE_URL`, default SQLite in `home`).
    `database_lock_seconds`: how long a lock of another transaction is waited for before a call is
    told that the database is busy (`LOCALCLOUD_DATABASE_LOCK_SECONDS`, default 10).
    `secret_key`: at least 32 characters (`LOCALCLOUD_SECRET_KEY`): signs sessions and encrypts
    the stored access keys. `s3_*`: the object store (`LOCALCLOUD_S3_ENDPOINT_URL`,
    `LOCALCLOUD_S3_ACCESS_KEY_ID`, `LOCALCLOUD_S3_SECRET_ACCESS_KEY`); unset means AWS S3 with
    boto3's own credential chain. `public_url`: where people and devices reach this server
    (`LOCALCLOUD_PUBLIC_URL`); `https` makes the session cookie Secure. `review_most_tasks`: the
    largest TaskCount of a flow definition (`LOCALCLOUD_REVIEW_MOST_TASKS`, default 3 as on AWS).
    `review_undo_seconds`: how long a reviewer may take back the last answer before a human loop's
    output is written (`LOCALCLOUD_REVIEW_UNDO_SECONDS`, default 10). `webhook_url` is posted each
    end of a human loop (`LOCALCLOUD_REVIEW_WEBHOOK_URL`), signed under `webhook_secret`
    (`LOCALCLOUD_REVIEW_WEBHOOK_SECRET`).
    """

    home: Path
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    database_lock_seconds: float = LOCK_SECONDS
    s3_endpoint_url: str | None = None
    s3_access_key_id: str | None = field(default=None, repr=False)
    s3_secret_access_key: str | None = field(default=None, repr=False)
    public_url: str | None = None
    review_most_tasks: int = 3
    review_undo_seconds: float = 10.0
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)

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
        webhook_url = env.get("LOCALCLOUD_REVIEW_WEBHOOK_URL") or None
        webhook_secret = env.get("LOCALCLOUD_REVIEW_WEBHOOK_SECRET") or None
        if webhook_url and len(webhook_secret or "") < SHORTEST_SECRET:
            raise SettingsError(
                "LOCALCLOUD_REVIEW_WEBHOOK_URL needs LOCALCLOUD_REVIEW_WEBHOOK_SECRET, at least "
                f"{SHORTEST_SECRET} characters, with which its receiver checks who posts"
            )
        return cls(
            home=home,
            database_url=env.get("LOCALCLOUD_DATABASE_URL")
            or f"sqlite:///{home / 'localcloud.db'}",
            secret_key=secret_key,
            database_lock_seconds=_number(
                env, "LOCALCLOUD_DATABASE_LOCK_SECONDS", LOCK_SECONDS, 0.1, 3600
            ),
            s3_endpoint_url=env.get("LOCALCLOUD_S3_ENDPOINT_URL") or None,
            s3_access_key_id=access_key,
            s3_secret_access_key=access_secret,
            public_url=env.get("LOCALCLOUD_PUBLIC_URL") or None,
            review_most_tasks=round(_number(env, "LOCALCLOUD_REVIEW_MOST_TASKS", 3, 1, 100)),
            review_undo_seconds=_number(env, "LOCALCLOUD_REVIEW_UNDO_SECONDS", 10, 0, 3600),
            webhook_url=webhook_url,
            webhook_secret=webhook_secret,
        )


def _number(env: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = env.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise SettingsError(f"{name} must be a number from {least:g} to {most:g}, got {text!r}")
    return number
