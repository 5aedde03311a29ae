"""Airflow of the stack: its components as processes, LocalExecutor on SQLite.

The components are those `airflow standalone` starts. They are started one by one because
standalone's log servers listen on every interface and no setting changes that; with
`--skip-serve-logs` nothing but the API servers listens, and that on loopback.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.credentials import REGION, Credentials, write_private
from stack.object_store import BUCKET
from stack.ports import LOOPBACK, free_ports
from stack.processes import Process, answers

ADMIN = "admin"
PROJECT = Path(__file__).resolve().parent.parent


class Airflow:
    """One Airflow over the project's `dags/`.

    :param home: AIRFLOW_HOME.
    :param port: port of web UI and REST API on loopback.
    :param connections: Airflow connections by id, as JSON-ready dictionaries.
    :param settings: further environment, for example `MODEL_DELIVERY_CRON`.
    """

    def __init__(
        self,
        home: Path,
        credentials: Credentials,
        port: int,
        connections: Mapping[str, Mapping[str, object]],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.url = f"http://{LOOPBACK}:{port}"
        self.password = credentials.airflow_admin_password
        self._port = port
        self._execution_port = free_ports(1)[0]
        self.env = _environment(home, credentials, port, self._execution_port)
        for name, connection in connections.items():
            self.env[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)
        self.env.update(settings or {})

    def migrate(self) -> Process:
        """Return the process that makes the metadata database; it ends by itself."""
        write_private(self.home / "passwords.json", json.dumps({ADMIN: self.password}))
        return self._process("airflow db", ["db", "migrate"])

    def components(self) -> list[Process]:
        """Return the servers, not yet started.

        Users' requests and the tasks' have a server each. Of the first kind the event loop itself
        writes (its log of users' actions), and may wait for the lock of a request whose thread
        waits for the loop: nothing but SQLite's time-out ends that, and what the tasks report
        meanwhile would be lost if it ended there first: Airflow then has them fail, retries or no.
        """
        api = self._api("api-server", "core", self._port)
        api.env = {**api.env, **_database(self.home, lock_seconds=5)}
        api.healthy = lambda: answers(f"{self.url}/api/v2/monitor/health")
        execution = self._api("execution-api", "execution", self._execution_port)
        health = f"http://{LOOPBACK}:{self._execution_port}/execution/health"
        execution.healthy = lambda: answers(health)
        return [
            api,
            execution,
            self._process("scheduler", ["scheduler", "--skip-serve-logs"]),
            self._process("dag-processor", ["dag-processor"]),
            self._process("triggerer", ["triggerer", "--skip-serve-logs"]),
        ]

    def _api(self, name: str, apps: str, port: int) -> Process:
        where = ["--host", LOOPBACK, "--port", str(port)]
        return self._process(name, ["api-server", "--apps", apps, *where])

    def _process(self, name: str, arguments: list[str]) -> Process:
        argv = [str(Path(sys.executable).parent / "airflow"), *arguments]
        return Process(name, argv, self.env, self.home / f"{name.replace(' ', '-')}.log")


def _environment(
    home: Path, credentials: Credentials, port: int, execution_port: int
) -> dict[str, str]:
    bin_folder = Path(sys.executable).parent
    return {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        # Python waits 5 s for SQLite's lock; a scheduler that does not get it ends.
        **_database(home, lock_seconds=60),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__FERNET_KEY": credentials.airflow_fernet_key,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{execution_port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API__BASE_URL": f"http://{LOOPBACK}:{port}",
        "AIRFLOW__API__SECRET_KEY": credentials.airflow_api_secret_key,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": credentials.airflow_jwt_secret,
        # A worker may report that its task deferred this many seconds after it did (default 5); a
        # task that is resumed before that report loses a try.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # On a busy machine the API answers late; after five waits of 5 s (default) a try is lost.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
        "MODEL_DELIVERY_BUCKET": BUCKET,
        "AWS_DEFAULT_REGION": REGION,
        # Tests and demos on a small machine: one thread pool per task process is enough.
        "OMP_NUM_THREADS": "1",
    }


def _database(home: Path, lock_seconds: int) -> dict[str, str]:
    url = f"sqlite:///{home}/airflow.db?timeout={lock_seconds}"
    return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}


def aws_connection(credentials: Credentials, cloud_url: str, store_url: str) -> dict[str, object]:
    """Return `aws_default` for localcloud and the object store: only the endpoints are ours."""
    cloud = {"endpoint_url": cloud_url}
    return {
        "conn_type": "aws",
        "login": credentials.aws_access_key_id,
        "password": credentials.aws_secret_access_key,
        "extra": {
            "region_name": REGION,
            "service_config": {
                "sagemaker": cloud,
                "sagemaker-a2i-runtime": cloud,
                "personalize": cloud,
                "greengrassv2": cloud,
                "iot": cloud,
                "sts": cloud,
                "s3": {"endpoint_url": store_url},
            },
            "config_kwargs": {
                "s3": {"addressing_style": "path"},
                "retries": {"mode": "standard", "max_attempts": 3},
                "connect_timeout": 5,
            },
        },
    }
