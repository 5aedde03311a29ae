"""`make demo` as a user runs it: once to its end, once interrupted, once with a port in use."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stack.demo import COMPONENT

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "stack", "demo"]
HOME = PROJECT / ".local" / "demo"
SUMMARY = PROJECT / "build" / "demo" / "summary.json"


def _processes_of(home: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                # A process may overwrite both, never the file that its output goes to.
                known += os.fsencode(os.readlink(entry / "fd" / "1"))
            except OSError:
                continue
            if str(home).encode() in known:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_the_demo_ends_well_and_says_where_its_results_are() -> None:
    done = subprocess.run(COMMAND, cwd=PROJECT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert str(SUMMARY) in done.stdout
    summary = json.loads(SUMMARY.read_text())
    stages = {stage["task"]: stage for stage in summary["stages"]}
    states = {task: stage["state"] for task, stage in stages.items()}
    assert states.pop("approve") == "skipped", "nobody is asked unless the run says so"
    assert set(states.values()) == {"success"}, states
    assert summary["accuracy"]["accuracy"] > 0.95
    assert summary["device"]["model"] == COMPONENT
    assert summary["device"]["digest"] == stages["component_version"]["result"]["digest"]
    assert summary["seconds"]["run"] < 90
    assert summary["resident_mib"] < 4096
    assert (PROJECT / "build" / "demo" / "report.html").stat().st_size > 10_000
    assert _processes_of(HOME) == []


def _started() -> "subprocess.Popen[str]":
    demo = subprocess.Popen(COMMAND, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("localcloud ready"):
            break
    assert _processes_of(HOME)
    time.sleep(1)
    return demo


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_demo_leaves_no_process_behind(number: signal.Signals) -> None:
    demo = _started()
    demo.send_signal(number)
    time.sleep(0.5)
    demo.send_signal(number)  # impatience changes nothing
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert _processes_of(HOME) == []


def test_a_demo_whose_terminal_is_closed_leaves_no_process_behind() -> None:
    demo = _started()
    assert demo.stdout is not None
    demo.stdout.close()  # what it says from here on has no reader
    demo.send_signal(signal.SIGHUP)
    assert demo.wait(60) == 130
    assert _processes_of(HOME) == []


def test_what_a_killed_demo_left_is_stopped_by_make_down() -> None:
    demo = _started()
    demo.kill()
    demo.communicate(timeout=60)
    assert _processes_of(HOME)
    down = subprocess.run(
        [*COMMAND[:-1], "down"], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert _processes_of(HOME) == []


def test_a_second_demo_is_refused_while_one_runs() -> None:
    demo = _started()
    second = subprocess.run(COMMAND, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert second.returncode == 1
    assert f"(process {demo.pid})" in second.stderr


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {**os.environ, "AIRFLOW_PORT": str(port)}
        done = subprocess.run(
            COMMAND, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert "AIRFLOW_PORT" in line
