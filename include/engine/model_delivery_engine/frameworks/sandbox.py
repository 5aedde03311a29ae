"""A process that loads somebody's model: no network, few files, limits on all it uses.

Loading a model can run its author's code (a pickle, a TensorFlow graph, a Keras layer), and a model
made to break a loader can run code through the loader's own faults. So it is loaded in bubblewrap:
namespaces of its own, an empty network, the system's libraries read-only, nothing of the user's.

Memory has two bounds. The kernel's is for each process, and gives a loader the chance to say so
itself. A watch over all that was started, a few times a second, holds their sum, and that of what
they write to the disk; folders in memory have a size of their own.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from model_delivery_engine.errors import Reason, ToolchainError, one_line
from model_delivery_engine.frameworks.results import Unusable, weigh
from model_delivery_engine.process_tree import (
    end_tree,
    follow_parent,
    memory_of,
    nameless_bytes,
    tree_of,
)
from model_delivery_engine.settings import Limits

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_PROCESSOR = "/sys/devices/system/cpu"
_LOG_BYTES = 64 * 1024
_TICK_SECONDS = 0.05
_WATCH_SECONDS = 0.2
# Folders in memory, and their share of the memory: a model's files lie on the disk.
_IN_MEMORY = {"/tmp": 1 / 4, "/dev/shm": 1 / 16}


@dataclass(frozen=True)
class Ended:
    """How a sandboxed process ended.

    :param code: as in `subprocess`, None where a limit ended it
    :param log: the last of what it printed
    :param limit: the limit that all its processes together passed: ``seconds``, ``memory_bytes``,
        ``processes`` or ``written_bytes``; None where it ended by itself
    """

    code: int | None
    log: str
    limit: str | None = None


def check_sandbox() -> None:
    """Raise ToolchainError unless bubblewrap is installed and works as this user."""
    bwrap = _bwrap()
    command = [bwrap, *_ROOM, *_read_only(_SYSTEM), "--", "/usr/bin/env", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolchainError(
            f"bubblewrap does not work as this user ({one_line(done.stderr)}); it has to be 0.8 or "
            f"newer: allow unprivileged user namespaces, or {_WITHOUT}",
            reason=Reason.SANDBOX_MISSING,
        )


_WITHOUT = (
    "set MODEL_DELIVERY_SANDBOX=off to load models without it, where every archive is your own"
)
# Namespaces of its own and no more of them inside (each could hold a folder in memory), no terminal
# to write into, and an end with the process that started it.
_ROOM = (
    "--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent", "--new-session",
    "--clearenv", "--proc", "/proc", "--dev", "/dev",
)  # fmt: skip


def run_sandboxed(
    command: Sequence[str],
    *,
    read: Mapping[Path, str],
    write: Mapping[Path, str],
    environ: Mapping[str, str],
    limits: Limits,
    sandbox: bool = True,
) -> Ended:
    """Run a command where it sees only what it is given.

    :param command: the program and its arguments, with paths as seen inside
    :param read: folders it may read, and where it sees them
    :param write: folders it may write, and where it sees them
    :param environ: its whole environment
    :param sandbox: False runs it with the limits alone; paths inside must then be those outside
    :raises ToolchainError: bubblewrap is not installed or does not work
    """
    wrapped = list(command)
    if sandbox:
        wrapped = [*_wrapping(read, write, environ, limits), "--", *command]
        environ = {"PATH": "/usr/bin:/bin"}
    # A file, not a pipe: what is printed without end has the size of a file, not of our memory.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            wrapped,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
            preexec_fn=_prepare(limits),  # between fork and exec
        )
        try:
            passed = _watch(process.pid, limits, list(write))
        finally:
            end_tree(process.pid)
            process.wait()
        text = _last(log)
    if sandbox and process.returncode == 1 and text.startswith("bwrap: "):
        check_sandbox()
    return Ended(None if passed else process.returncode, text, passed)


def _prepare(limits: Limits) -> Callable[[], None]:
    follow = follow_parent()

    def prepare() -> None:
        follow()
        limit_process(limits)

    return prepare


def _watch(pid: int, limits: Limits, folders: Sequence[Path]) -> str | None:
    """Wait for a process; return the limit that it passed with all it started, None if none."""
    deadline = time.monotonic() + limits.seconds
    looked = 0.0
    # It stays a zombie meanwhile, so that its number is no other's when its tree is ended.
    look = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while os.waitid(os.P_PID, pid, look) is None:
        now = time.monotonic()
        if now > deadline:
            return "seconds"
        if now - looked > _WATCH_SECONDS:
            looked = now
            members = tree_of(pid)
            if len(members) > limits.processes:
                return "processes"
            if memory_of(members) > limits.memory_bytes:
                return "memory_bytes"
            if _written(folders, members) > limits.written_bytes:
                return "written_bytes"
        time.sleep(_TICK_SECONDS)
    return None


def _written(folders: Sequence[Path], members: Sequence[int]) -> float:
    """Return the bytes that lie in folders, and in files that lay there and are still open."""
    try:
        return sum(weigh(each)[0] for each in folders) + nameless_bytes(members, folders)
    except Unusable:
        return float("inf")


def _last(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
    return log.read().decode("utf-8", "replace")


def _wrapping(
    read: Mapping[Path, str],
    write: Mapping[Path, str],
    environ: Mapping[str, str],
    limits: Limits,
) -> list[str]:
    python = Path(sys.base_prefix)
    arguments = [_bwrap(), *_ROOM, *_read_only((*_SYSTEM, _PROCESSOR, str(python)))]
    for folder, share in _IN_MEMORY.items():
        arguments += ["--size", str(max(1, int(limits.memory_bytes * share))), "--tmpfs", folder]
    for outside, inside in read.items():
        arguments += ["--ro-bind", str(outside), inside]
    for outside, inside in write.items():
        arguments += ["--bind", str(outside), inside]
    for name, value in environ.items():
        arguments += ["--setenv", name, value]
    # What is left of its own root lies in memory too.
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/"]


def _read_only(paths: Sequence[str]) -> list[str]:
    return [part for path in paths for part in ("--ro-bind-try", path, path)]


def _bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise ToolchainError(
            "bubblewrap is not installed, and only inside it models of other frameworks are "
            f"loaded: apt-get install bubblewrap, or {_WITHOUT}",
            reason=Reason.SANDBOX_MISSING,
        )
    return found


def limit_process(limits: Limits) -> None:
    """Set the limits on memory, files and core dumps for this process and what it starts."""
    # RLIMIT_DATA counts private writable memory, not the gigabytes of libraries that are mapped.
    for kind, value in (
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))
