"""The whole stack on one machine: object store, localcloud, one device, Airflow."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from stack.airflow import Airflow, aws_connection
from stack.credentials import Credentials, load_or_create, write_private
from stack.device import device
from stack.localcloud import LocalCloud
from stack.object_store import object_store
from stack.ports import LOOPBACK, PortInUseError, free_ports, require_free
from stack.processes import (
    MARK,
    Process,
    StackError,
    record_session,
    resident_bytes,
    stop_marked,
)
from stack.reviewers import prepare_team

START_SECONDS = 180.0
HIGHEST_PORT = 65535
THING = "edge-1"


def _say_nothing(_line: str) -> None:
    return


class Stack:
    """Starts and stops everything; a context manager that leaves no process behind.

    :param home: folder of all its state; kept between starts.
    :param say: takes a line for each step of the start.
    :param connections: further Airflow connections by id.
    :param settings: further environment of Airflow.
    """

    def __init__(
        self,
        home: Path,
        say: Callable[[str], None] = _say_nothing,
        connections: Mapping[str, Mapping[str, object]] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self._say = say
        self.credentials: Credentials = load_or_create(home / "secrets.json")
        self.store_port, cloud_port, self.device_port, airflow_port = _ports(home)
        self.store_url = f"http://{LOOPBACK}:{self.store_port}"
        self.cloud = LocalCloud(home / "localcloud", self.credentials, cloud_port, self.store_port)
        self.airflow = Airflow(
            home / "airflow",
            self.credentials,
            airflow_port,
            {
                "aws_default": aws_connection(self.credentials, self.cloud.url, self.store_url),
                "model_delivery_edge_default": self._device_connection(),
                **(connections or {}),
            },
            settings,
        )
        self.processes: dict[str, Process] = {}

    def _device_connection(self) -> dict[str, object]:
        return {
            "conn_type": "model_delivery_edge",
            "host": LOOPBACK,
            "port": self.device_port,
            "schema": "http",
            "password": self.credentials.device_api_token,
        }

    def __enter__(self) -> "Stack":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and return when all of it is healthy."""
        migrate = self._launch(self.airflow.migrate())
        store = object_store(self.home / "store", self.credentials, self.store_port)
        self._launch(store).wait_healthy(START_SECONDS)
        self._say(f"object store ready at {self.store_url}")
        self.cloud.prepare()
        cloud = self._launch(self.cloud.api())
        self._launch(self.cloud.worker())
        cloud.wait_healthy(START_SECONDS)
        prepare_team(self.cloud, self.credentials)
        self._say(f"localcloud ready at {self.cloud.url}")
        agent = device(
            THING, self.home / "devices" / THING, self.cloud, self.credentials, self.device_port
        )
        self._launch(agent).wait_healthy(START_SECONDS)
        self._say(f"device {THING} ready at http://{LOOPBACK}:{self.device_port}")
        migrate.wait_done(START_SECONDS)
        del self.processes[migrate.name]
        self._start_airflow()
        self._say(f"Airflow ready at {self.airflow.url}")

    def _start_airflow(self) -> None:
        """Start the scheduler last: it may have tasks of a stopped run to start at once.

        They speak to the API server, and one that is not there yet costs them a try.
        """
        components = {each.name: each for each in self.airflow.components()}
        scheduler = components.pop("scheduler")
        for component in [self._launch(each) for each in components.values()]:
            component.wait_healthy(START_SECONDS)
        self._launch(scheduler).wait_healthy(START_SECONDS)

    def _launch(self, process: Process) -> Process:
        process.env = {**process.env, MARK: str(self.home)}
        self.processes[process.name] = process
        process.start()
        record_session(self.home, process)
        return process

    def stop(self) -> None:
        """Stop everything that was started: Airflow first, whose tasks may have jobs to stop."""
        if not self.processes:
            return
        airflow = {component.name for component in self.airflow.components()}
        with _undisturbed():
            self._say("stopping")
            for group in (airflow, self.processes.keys() - airflow):
                members = [self.processes.pop(name) for name in group & self.processes.keys()]
                for process in members:
                    process.ask_to_stop()
                for process in members:
                    process.stop()
            # What was interrupted in the moment between its start and its entry in our list.
            stop_marked(self.home)

    def require_running(self) -> None:
        """Raise StackError naming the first process that ended by itself."""
        for process in self.processes.values():
            process.require_running()

    def device_model(self, model: str) -> dict[str, object]:
        """Ask the device itself which digest of a model it is running."""
        answer = httpx.get(
            f"http://{LOOPBACK}:{self.device_port}/v2/models/{model}",
            headers={"Authorization": f"Bearer {self.credentials.device_api_token}"},
        )
        answer.raise_for_status()
        metadata = answer.json()
        return {
            "thing": THING,
            "model": model,
            "versions": metadata["versions"],
            "digest": metadata["digest"],
        }

    def resident_bytes(self) -> int:
        """Memory of all its processes, shared pages counted once, in bytes."""
        return resident_bytes([process.pid for process in self.processes.values()])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore what would interrupt: an impatient second Ctrl-C must not leave processes behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ports(home: Path) -> tuple[int, int, int, int]:
    """Ports of store, localcloud, device, Airflow: as the environment says, else as last time.

    Links that Airflow has stored lead to the last ports; a port that is taken is replaced.
    """
    names = ("STORE_PORT", "LOCALCLOUD_PORT", "DEVICE_PORT", "AIRFLOW_PORT")
    kept = home / "ports.json"
    last = json.loads(kept.read_text()) if kept.exists() else {}
    chosen = [
        require_free(_number(os.environ[name], name), name)
        if name in os.environ
        else _free_again(last.get(name))
        for name in names
    ]
    for place, port in enumerate(chosen):
        if port in chosen[:place]:
            first = names[chosen.index(port)]
            raise StackError(f"{first} and {names[place]} are both {port}: set one to another port")
    write_private(kept, json.dumps(dict(zip(names, chosen, strict=True))))
    return chosen[0], chosen[1], chosen[2], chosen[3]


def _free_again(port: int | None) -> int:
    if port is not None:
        with suppress(PortInUseError):
            return require_free(port, "")
    return free_ports(1)[0]


def _number(text: str, setting: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= HIGHEST_PORT:
        raise StackError(f"{setting} is {text!r}: set it to a port, 1 to {HIGHEST_PORT}")
    return int(text)
