"""Settings, sealing, passwords: what protects secrets at rest and in logs."""

from pathlib import Path

import pytest
from model_delivery_localcloud.errors import SettingsError, StoreError
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.passwords import hash_password, verify_password
from model_delivery_localcloud.store.sealing import Sealer

KEY = "k" * 40


def test_secrets_are_not_in_the_repr(tmp_path: Path) -> None:
    settings = Settings.from_environment(
        {
            "LOCALCLOUD_HOME": str(tmp_path),
            "LOCALCLOUD_SECRET_KEY": KEY,
            "LOCALCLOUD_DATABASE_URL": "postgresql://user:hunter2@host/db",
            "LOCALCLOUD_S3_ACCESS_KEY_ID": "id-of-key",
            "LOCALCLOUD_S3_SECRET_ACCESS_KEY": "secret-of-key",
        }
    )
    assert settings.s3_secret_access_key == "secret-of-key"
    for secret in (KEY, "hunter2", "secret-of-key"):
        assert secret not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "LOCALCLOUD_SECRET_KEY"),
        ({"LOCALCLOUD_SECRET_KEY": "short"}, "at least 32"),
        ({"LOCALCLOUD_SECRET_KEY": KEY, "LOCALCLOUD_S3_ACCESS_KEY_ID": "x"}, "set both"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Settings.from_environment(environ)


def test_a_sealed_secret_opens_under_its_key_only() -> None:
    sealed = Sealer(KEY).seal("the secret")
    assert "the secret" not in sealed
    assert Sealer(KEY).open(sealed, "it") == "the secret"
    with pytest.raises(StoreError, match="another LOCALCLOUD_SECRET_KEY"):
        Sealer("other" * 10).open(sealed, "it")


def test_passwords_are_salted_and_verified() -> None:
    first, second = hash_password("correct horse"), hash_password("correct horse")
    assert first != second
    assert verify_password("correct horse", first)
    assert not verify_password("correct horsf", first)
