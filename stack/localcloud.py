"""localcloud as two processes, the API and a worker, over one SQLite file."""

import os
import subprocess
import sys
from pathlib import Path

from stack.credentials import ACCOUNT, Credentials
from stack.ports import LOOPBACK
from stack.processes import Process, StackError, answers

PORTAL_USER = "admin"
# What tells uv and pip of a package index, and Python of a network, on this machine.
INSTALLER_PREFIXES = ("MODEL_DELIVERY_", "PIP_", "UV_")
INSTALLER_NAMES = frozenset(
    {
        "all_proxy", "curl_ca_bundle", "http_proxy", "https_proxy", "no_proxy",
        "requests_ca_bundle", "ssl_cert_dir", "ssl_cert_file",
    }
)  # fmt: skip


class LocalCloud:
    """The embedded cloud of one stack.

    :param home: folder of its database and logs.
    :param port: port of its API on loopback.
    :param store_port: S3 port of the object store.
    """

    def __init__(self, home: Path, credentials: Credentials, port: int, store_port: int) -> None:
        self.home = home
        self.url = f"http://{LOOPBACK}:{port}"
        self._credentials = credentials
        self._port = port
        self._command = str(Path(sys.executable).parent / "model-delivery-localcloud")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LOCALCLOUD_HOME": str(home),
            "LOCALCLOUD_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{store_port}",
            "LOCALCLOUD_S3_ACCESS_KEY_ID": credentials.store_access_key_id,
            "LOCALCLOUD_S3_SECRET_ACCESS_KEY": credentials.store_secret_access_key,
            "LOCALCLOUD_SECRET_KEY": credentials.localcloud_secret_key,
            "LOCALCLOUD_PUBLIC_URL": self.url,
            **_for_installing(),
        }

    def prepare(self) -> None:
        """Bring the database to the newest schema and make sure of the access key and the user."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.run("migrate")
        key_id = self._credentials.aws_access_key_id
        self.run(
            "access-key", "add", "--id", key_id, "--account", ACCOUNT,
            secret=self._credentials.aws_secret_access_key,
        )  # fmt: skip
        self.run("user", "add", PORTAL_USER, secret=self._credentials.localcloud_user_password)

    def run(self, *arguments: str, secret: str | None = None) -> str:
        """Run an administrative command; a secret goes in by standard input, never by argv."""
        done = subprocess.run(
            [self._command, *arguments],
            env=self.env, input=secret, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StackError(f"localcloud {arguments[0]} failed: {done.stderr.strip()[-500:]}")
        return done.stdout.strip()

    def device_token(self, thing: str) -> str:
        """Return a one-time registration token for a device."""
        return self.run("device-token", thing).splitlines()[-1]

    def api(self) -> Process:
        """Return the API's process, not yet started."""
        argv = [self._command, "serve", "--host", LOOPBACK, "--port", str(self._port)]
        return self._process("localcloud", argv, healthy=f"{self.url}/healthz")

    def worker(self, *options: str) -> Process:
        """Return a worker's process, not yet started; `options` are those of `work`."""
        argv = [self._command, "work", *options]
        return self._process("localcloud worker", argv)

    def _process(self, name: str, argv: list[str], healthy: str | None = None) -> Process:
        log = self.home / f"{name.replace(' ', '-')}.log"
        process = Process(name, argv, self.env, log)
        if healthy:
            process.healthy = lambda: answers(healthy)
        return process


def _for_installing() -> dict[str, str]:
    """Return what a worker needs to install a framework's packages as this user would.

    The environments are the user's own, so that each stack does not install gigabytes anew.
    """
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(INSTALLER_PREFIXES) or name.lower() in INSTALLER_NAMES
    }
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {
        "UV_CACHE_DIR": str(cache / "uv"),
        "MODEL_DELIVERY_ENVIRONMENTS": str(cache / "model-delivery" / "environments"),
        **passed,
    }
