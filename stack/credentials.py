"""Every secret of one stack: random, made once, kept in one file that only its owner reads."""

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ACCOUNT = "000000000000"
REGION = "us-east-1"


@dataclass(frozen=True)
class Credentials:
    """Secrets of one stack; `repr` hides their values."""

    airflow_admin_password: str
    airflow_fernet_key: str
    airflow_jwt_secret: str
    airflow_api_secret_key: str
    aws_access_key_id: str
    aws_secret_access_key: str
    store_access_key_id: str
    store_secret_access_key: str
    store_admin_password: str
    localcloud_secret_key: str
    localcloud_user_password: str
    device_api_token: str

    def __repr__(self) -> str:
        return "Credentials(…)"

    def secret_values(self) -> dict[str, str]:
        """Return what must not leak: everything but the two key ids."""
        return {name: value for name, value in asdict(self).items() if not name.endswith("key_id")}


def _make(name: str) -> str:
    if name == "airflow_fernet_key":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if name.endswith("key_id"):
        return "AKIA" + base64.b32encode(secrets.token_bytes(10)).decode()
    if name.endswith("password"):
        return secrets.token_urlsafe(12)
    return secrets.token_urlsafe(64)


def load_or_create(path: Path) -> Credentials:
    """Read the stack's secrets, or make them on first use (file mode 0600)."""
    if path.exists():
        return Credentials(**json.loads(path.read_text()))
    made = Credentials(**{each.name: _make(each.name) for each in fields(Credentials)})
    write_private(path, json.dumps(asdict(made), indent=1))
    return made


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)
