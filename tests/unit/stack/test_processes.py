"""A process of the stack: health, early death, and a stop that leaves no child behind."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from stack.ports import PortInUseError, free_ports, require_free
from stack.processes import Process, StackError
from stack.stack import Stack

FORKS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def _process(program: str, log: Path) -> Process:
    return Process("part", [sys.executable, "-c", program], dict(os.environ), log)


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_stopping_takes_the_children_along(tmp_path: Path, end: str) -> None:
    log = tmp_path / "log"
    process = _process(FORKS, log).start()
    process.healthy = lambda: bool(log.read_text().strip())
    process.wait_healthy(20)
    child = int(log.read_text())
    assert _alive(child)
    getattr(process, end)()
    deadline = time.monotonic() + 5
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def test_a_part_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = _process("print('no such table'); raise SystemExit(3)", tmp_path / "log").start()
    process.healthy = lambda: False
    with pytest.raises(StackError, match=r"part ended with exit code 3.*\n.*no such table"):
        process.wait_healthy(20)


def test_a_part_that_is_never_ready_is_an_error(tmp_path: Path) -> None:
    process = _process("import time; time.sleep(600)", tmp_path / "log").start()
    process.healthy = lambda: False
    try:
        with pytest.raises(StackError, match="part was not ready within 0 s"):
            process.wait_healthy(0.3)
    finally:
        process.stop()


def test_a_port_in_use_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} .* AIRFLOW_PORT"):
            require_free(port, "AIRFLOW_PORT")


def test_free_ports_are_distinct() -> None:
    assert len(set(free_ports(20))) == 20


def test_one_port_for_two_parts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("STORE_PORT", str(port))
    monkeypatch.setenv("AIRFLOW_PORT", str(port))
    with pytest.raises(StackError, match=f"STORE_PORT and AIRFLOW_PORT are both {port}"):
        Stack(tmp_path)


def test_a_stack_comes_back_on_its_ports_unless_they_are_taken(tmp_path: Path) -> None:
    first = Stack(tmp_path)
    assert Stack(tmp_path).airflow.url == first.airflow.url
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first.store_port))
        taken.listen()
        again = Stack(tmp_path)
    assert again.store_port != first.store_port
    assert again.airflow.url == first.airflow.url


def test_the_answer_of_another_server_is_not_taken_for_ours(tmp_path: Path) -> None:
    process = _process("raise SystemExit(3)", tmp_path / "log").start()
    time.sleep(1)
    process.healthy = lambda: True
    with pytest.raises(StackError, match="exit code 3"):
        process.wait_healthy(20)
