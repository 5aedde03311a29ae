"""A process that loads somebody's model: no network, few files, limits on all it uses.

Loading a model can run its author's code (a pickle, a TensorFlow graph, a Keras layer), and a model
made to break a loader can run code through the loader's own faults. So it is loaded in bubblewrap:
namespaces of its own, an empty network, the system's libraries read-only, nothing of the user's.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_delivery_engine.errors import Reason, ToolchainError, one_line
from model_delivery_engine.settings import Limits

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_PROCESSOR = "/sys/devices/system/cpu"
_LOG_BYTES = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """How a sandboxed process ended: ``code`` as in `subprocess`, None past its time."""

    code: int | None
    log: str


def check_sandbox() -> None:
    """Raise ToolchainError unless bubblewrap is installed and works as this user."""
    bwrap = _bwrap()
    command = [bwrap, *_ROOM, *_read_only(_SYSTEM), "--", "/usr/bin/env", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolchainError(
            f"bubblewrap does not work as this user ({one_line(done.stderr)}); allow unprivileged "
            f"user namespaces, or {_WITHOUT}",
            reason=Reason.SANDBOX_MISSING,
        )


_WITHOUT = (
    "set MODEL_DELIVERY_SANDBOX=off to load models without it, where every archive is your own"
)
# Namespaces of its own, no terminal to write into, and an end with the process that started it.
_ROOM = (
    "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
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
        wrapped = [*_wrapping(read, write, environ), "--", *command]
        environ = {"PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        wrapped,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environ),
        start_new_session=True,
        preexec_fn=lambda: limit_process(limits),  # only sets limits, between fork and exec
    ) as process:
        try:
            output, _ = process.communicate(timeout=limits.seconds)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill(process)
        if code is None:
            output, _ = process.communicate()
    log = output[-_LOG_BYTES:].decode("utf-8", "replace")
    if sandbox and code == 1 and log.startswith("bwrap: "):
        check_sandbox()
    return Ended(code, log)


def _wrapping(
    read: Mapping[Path, str], write: Mapping[Path, str], environ: Mapping[str, str]
) -> list[str]:
    python = Path(sys.base_prefix)
    arguments = [_bwrap(), *_ROOM, *_read_only((*_SYSTEM, _PROCESSOR, str(python)))]
    for outside, inside in read.items():
        arguments += ["--ro-bind", str(outside), inside]
    for outside, inside in write.items():
        arguments += ["--bind", str(outside), inside]
    for name, value in environ.items():
        arguments += ["--setenv", name, value]
    return arguments


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


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # bubblewrap's process namespace ends with it, whatever was started inside.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
