from pathlib import Path

import pytest
from model_delivery_edge.cli import main
from model_delivery_edge.errors import HomeError
from model_delivery_edge.home import Home


def test_one_agent_a_folder(tmp_path: Path) -> None:
    with Home(tmp_path, "thing"), pytest.raises(HomeError, match="another agent uses"):
        Home(tmp_path, "thing")
    with Home(tmp_path, "thing") as home:
        assert home.device_key() is None


def test_device_key_is_the_things(tmp_path: Path) -> None:
    with Home(tmp_path, "thing") as home:
        home.keep_device_key("secret")
        assert home.device_key() == "secret"
    with Home(tmp_path, "other") as home, pytest.raises(HomeError, match="belongs to thing thing"):
        home.device_key()


def test_damaged_device_key_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "device.key").write_text("{")
    with Home(tmp_path, "thing") as home, pytest.raises(HomeError, match="register again"):
        home.device_key()


def test_api_token_is_made_once(tmp_path: Path) -> None:
    with Home(tmp_path, "thing") as home:
        token = home.api_token()
        assert len(token) >= 32
        assert home.api_token() == token


def test_half_extracted_bundles_are_removed(tmp_path: Path) -> None:
    (tmp_path / "work" / "half").mkdir(parents=True)
    with Home(tmp_path, "thing") as home:
        assert list(home.work.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--thing", "a/b", "no thing name"),
        ("--cloud", "ftp://host", "http or https URL"),
        ("--cloud", "http://user:secret@host", "without credentials"),
        ("--port", "65536", "is no port"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, why: str
) -> None:
    options = {
        "--thing": "t", "--cloud": "http://127.0.0.1:1", "--home": str(tmp_path / "h"),
        "--port": "0", option: value,
    }  # fmt: skip
    argv = ["run", *(word for pair in options.items() for word in pair)]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert "secret" not in error
    assert not (tmp_path / "h").exists()
