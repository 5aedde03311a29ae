"""The compose file, against the compose specification's own schema."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
COMPOSE = PROJECT / "docker-compose.yaml"


def _check(path: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent / "check-jsonschema"
    return subprocess.run(
        [command, "--builtin-schema", "vendor.compose-spec", path], capture_output=True, text=True
    )


def test_the_compose_file_fits_the_schema() -> None:
    done = _check(COMPOSE)
    assert done.returncode == 0, done.stdout


def test_the_schema_check_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yaml"
    broken.write_text("services:\n  one: {image: x, no_such_key: 1}\n")
    assert _check(broken).returncode != 0


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load(COMPOSE.read_text())
    return dict(document["services"])


def test_every_dockerfile_exists_and_runs_as_a_user(services: dict[str, dict[str, Any]]) -> None:
    files = {each["build"]["dockerfile"] for each in services.values() if "build" in each}
    assert len(files) == 3
    for name in files:
        assert "\nUSER " in (PROJECT / name).read_text(), f"{name} runs as root"


def test_no_secret_has_a_default(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if key.endswith("_FILE"):
                assert str(value).startswith("/run/secrets/")
            elif any(word in key for word in ("PASSWORD", "SECRET", "TOKEN", "KEY", "CONN_")):
                assert "${" in str(value), f"{name}.{key} is written out"
                assert ":-" not in str(value) or str(value).endswith(":-}"), f"{name}.{key}"


def test_ports_are_published_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for each in services.values() for port in each.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
