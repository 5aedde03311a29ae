"""All that a process started, however it was started: listed, weighed, ended.

A process group misses what made a session of its own, and a walk over parents misses what lost its
parent. So a tree is the descendants of a process and all members of the sessions that they lead.
Where there is no ``/proc`` (macOS), a tree is the process alone.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_ENDING_SECONDS = 10.0


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    session: int
    ended: bool


def tree_of(root: int) -> list[int]:
    """Return the process ids of a process and all it started, those that still run.

    :param root: a process of this one's own making that was not waited for yet: its number may be
        another's afterwards
    """
    processes = {each.pid: each for each in _processes()}
    members = {root} & processes.keys()
    # Parents before children is no order that /proc keeps, so until nothing is added.
    while True:
        # A session is led by the process that made it, whose number it has.
        added = {
            each.pid
            for each in processes.values()
            if each.pid not in members and (each.parent in members or each.session in members)
        }
        if not added:
            return sorted(pid for pid in members if not processes[pid].ended)
        members |= added


def memory_of(pids: Sequence[int]) -> int:
    """Return the bytes that processes hold in memory and that no file on a disk backs.

    A page that several share counts once. What is swapped out counts, and a file in memory that has
    no folder counts while it is open, and once more where it is mapped.
    """
    return sum(_memory(pid) for pid in pids) + sum(_open_memory(pids).values())


def end_tree(root: int, *, spare: int | None = None) -> None:
    """Kill a process and all it started, and wait until they are gone, 10 seconds at most.

    :param root: a process of this one's own making, or this one
    :param spare: a process that is not killed: the caller, when it ends what it started
    """
    # Who is listed before anybody dies keeps its place in the tree: it is asked for again only for
    # what was started meanwhile.
    members: set[int] = set()
    deadline = time.monotonic() + _ENDING_SECONDS
    while time.monotonic() < deadline:
        members |= set(tree_of(root)) - {spare}
        running = [pid for pid in members if _runs(pid)]
        if not running:
            return
        for pid in running:
            _signal(pid)
        time.sleep(0.01)


def follow_parent() -> Callable[[], None]:
    """Return what a child calls before it becomes another program, to die with its parent.

    The kernel does it, whatever ends the parent. Nothing happens on a system that cannot.
    """
    import ctypes

    parent = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # loaded before the fork

    def follow() -> None:
        if prctl is not None:
            prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)

    return follow


def _processes() -> Iterator[_Process]:
    if not _PROC.joinpath("self", "stat").exists():
        return
    for name in os.listdir(_PROC):
        if name.isdigit():
            try:
                text = _PROC.joinpath(name, "stat").read_text(errors="replace")
            except OSError:
                continue  # it ended meanwhile
            # The program's name stands in brackets and may hold any character.
            state, parent, _group, session = text.rpartition(")")[2].split()[:4]
            yield _Process(int(name), int(parent), int(session), state in "ZX")


def _runs(pid: int) -> bool:
    try:
        text = _PROC.joinpath(str(pid), "stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _memory(pid: int) -> int:
    """Return a process's own memory, and its share of what it shares."""
    for file, fields in (
        ("smaps_rollup", ("Pss_Anon", "Pss_Shmem", "SwapPss")),
        ("status", ("RssAnon", "RssShmem", "VmSwap")),  # where the first may not be read
    ):
        try:
            lines = _PROC.joinpath(str(pid), file).read_text().splitlines()
        except OSError:
            continue
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        return sum(int(found[name].split()[0]) * 1024 for name in fields if name in found)
    return 0


def nameless_bytes(pids: Sequence[int], folders: Sequence[Path]) -> int:
    """Return the bytes of open files that have no name any more, on the disks of some folders."""
    disks = {folder.stat().st_dev for folder in folders}
    found: dict[tuple[int, int], int] = {}
    for _, file in _open_files(pids):
        if not file.st_nlink and file.st_dev in disks:
            found[file.st_dev, file.st_ino] = file.st_blocks * 512
    return sum(found.values())


def _open_memory(pids: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return the bytes of each open file in memory, by device and number."""
    return {
        (file.st_dev, file.st_ino): file.st_blocks * 512
        for name, file in _open_files(pids)
        if name.startswith("/memfd:")
    }


def _open_files(pids: Sequence[int]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what processes have open, with its name as they see it."""
    for pid in pids:
        try:
            links = list(_PROC.joinpath(str(pid), "fd").iterdir())
        except OSError:
            continue
        for link in links:
            try:
                yield str(link.readlink()), link.stat()
            except OSError:
                continue
