"""Trees of real processes: who belongs to one, what it weighs, and that all of it ends."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model_delivery_engine.process_tree import end_tree, memory_of, tree_of

MIB = 1024**2
# A child in a session of its own whose child loses its parent: no group and no parent leads to it.
FAMILY = """
import os, sys, time
def note(name):
    with open(os.path.join(sys.argv[1], name), "w") as file:
        file.write(str(os.getpid()))
note("root")
if os.fork() == 0:
    os.setsid()
    note("leader")
    if os.fork() == 0:
        if os.fork() == 0:
            note("orphan")
            time.sleep(300)
        os._exit(0)
time.sleep(300)
"""


def number(path: Path) -> int:
    deadline = time.monotonic() + 20
    while not (path.is_file() and (text := path.read_text())):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
    return int(text)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def started() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start Python on a text, in a session of its own; what is left of it is killed after."""
    processes: list[subprocess.Popen[bytes]] = []

    def _start(code: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", code, *arguments]
        processes.append(subprocess.Popen(command, start_new_session=True))
        return processes[-1]

    yield _start
    for process in processes:
        end_tree(process.pid)
        process.wait()


def test_a_tree_ends_with_whoever_left_group_and_parent(
    tmp_path: Path, started: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    root = started(FAMILY, str(tmp_path))
    pids = [number(tmp_path / name) for name in ("root", "leader", "orphan")]
    assert set(pids) <= set(tree_of(root.pid))
    end_tree(root.pid)
    assert [pid for pid in pids if runs(pid)] == []


def test_a_process_can_spare_itself(
    tmp_path: Path, started: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    code = f"""
import os, subprocess, sys
from model_delivery_engine.process_tree import end_tree
subprocess.Popen([sys.executable, "-c", {FAMILY!r}, sys.argv[1]])
while not all(os.path.exists(os.path.join(sys.argv[1], n)) for n in ("leader", "orphan")): pass
end_tree(os.getpid(), spare=os.getpid())
sys.exit(7)
"""
    assert started(code, str(tmp_path)).wait(60) == 7
    assert not any(runs(number(tmp_path / name)) for name in ("root", "leader", "orphan"))


def test_memory_is_that_of_all_processes_and_shared_pages_count_once(
    started: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    code = """
import os, sys, time
block = bytearray(os.urandom(1024)) * (64 * 1024)
children = [os.fork() for _ in range(2)]
if 0 in children:
    time.sleep(300)
open(sys.argv[1], "w").write("1")
time.sleep(300)
"""
    root = started(code, str(tmp_path / "ready"))
    number(tmp_path / "ready")
    members = tree_of(root.pid)
    eventually(lambda: len(tree_of(root.pid)) >= 3)
    assert 64 * MIB <= memory_of(members) < 128 * MIB


def test_what_runs_without_a_sandbox_dies_with_the_process_that_started_it(
    tmp_path: Path, started: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    code = """
import sys
from model_delivery_engine.frameworks.sandbox import run_sandboxed
from model_delivery_engine.settings import Limits
endless = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\\nwhile True: pass"
run_sandboxed([sys.executable, "-c", endless, sys.argv[1]], read={}, write={}, environ={},
              limits=Limits(), sandbox=False)
"""
    started(code, str(tmp_path / "pid"))
    converter = number(tmp_path / "pid")
    os.kill(int(Path(f"/proc/{converter}/stat").read_text().rpartition(")")[2].split()[1]), 9)
    eventually(lambda: not runs(converter))
