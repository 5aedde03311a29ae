"""One server process: in a session of its own, healthy before use, stopped with its children."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 90.0
STOP_SECONDS = 15.0
SESSIONS = "sessions"
# Set for every process of a stack, and inherited by all that it starts.
MARK = "MODEL_DELIVERY_STACK"


class StackError(RuntimeError):
    """A part of the stack did not start or stopped by itself; the message names its log."""


def answers(url: str) -> bool:
    """Tell whether `url` answers 2xx within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(200 <= response.status < 300)
    except (urllib.error.URLError, OSError):
        return False


@dataclass
class Process:
    """A server of the stack.

    :param name: how messages call it.
    :param argv: the command.
    :param env: its whole environment.
    :param log: file that takes its output.
    :param healthy: true once it can be used.
    :param returncode: its exit code, once it was stopped.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    healthy: Callable[[], bool] = field(default=lambda: True)
    returncode: int | None = None
    _popen: subprocess.Popen[bytes] | None = None

    def start(self) -> "Process":
        """Start it as leader of a new session, so that all it forks can be found and stopped."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.argv,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __enter__(self) -> "Process":
        """Start it and wait until it is healthy."""
        self.start()
        try:
            self.wait_healthy(START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id, which is also its group and session."""
        if self._popen is None:
            raise StackError(f"{self.name} was not started")
        return self._popen.pid

    def wait_healthy(self, seconds: float) -> None:
        """Return once healthy; raise StackError with the end of the log otherwise."""
        deadline = time.monotonic() + seconds
        while not self.healthy():
            self.require_running()
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} was not ready within {seconds:.0f} s{self.tail()}")
            time.sleep(0.2)

    def wait_done(self, seconds: float) -> None:
        """Return once it ended well by itself; raise StackError otherwise."""
        if self._popen is None:
            raise StackError(f"{self.name} was not started")
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StackError(f"{self.name} took over {seconds:.0f} s{self.tail()}") from None
        if code:
            raise StackError(f"{self.name} failed with exit code {code}{self.tail()}")

    def require_running(self) -> None:
        """Raise StackError if it ended by itself."""
        if self._popen is not None and (code := self._popen.poll()) is not None:
            raise StackError(f"{self.name} ended with exit code {code}{self.tail()}")

    def tail(self, lines: int = 12) -> str:
        """Return the end of the log, with its path."""
        text = (
            self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        )
        return "\n  ".join([f"; its log is {self.log}", *text])

    def ask_to_stop(self) -> None:
        """Send SIGTERM to it and its children, and return at once."""
        if self._popen is not None:
            _signal(_session(self.pid), signal.SIGTERM)

    def stop(self) -> None:
        """Ask it and its children to end, then make them."""
        if self._popen is None:
            return
        stop_session(self.pid)
        self.returncode = self._popen.wait()
        self._popen = None

    def kill(self) -> None:
        """SIGKILL the whole session at once, as a power cut would."""
        _signal(_session(self.pid), signal.SIGKILL)
        if self._popen is not None:
            self.returncode = self._popen.wait()
            self._popen = None


def stop_session(session: int) -> None:
    """SIGTERM every process of a session, and SIGKILL what is left after STOP_SECONDS."""
    _stop(lambda: _session(session))


def stop_marked(home: Path) -> bool:
    """Stop every process of a stack whose owner is gone; False if there is none."""
    if not _marked(home):
        return False
    _stop(lambda: _marked(home))
    return True


def _stop(find: Callable[[], Sequence[int]]) -> None:
    _signal(find(), signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while alive := find():
        if time.monotonic() > deadline:
            _signal(alive, signal.SIGKILL)
        time.sleep(0.05)


def _marked(home: Path) -> list[int]:
    """Find by the mark, or by the recorded session where a process overwrote its environment."""
    mark = f"{MARK}={home}".encode()
    record = home / SESSIONS
    lines = record.read_text().splitlines() if record.exists() else []
    sessions = {int(sid) for sid, began in map(str.split, lines) if _began(int(sid)) == began}
    found = {pid for pid in _pids() if mark in _environment(pid)}
    found |= {pid for session in sessions for pid in _session(session)}
    return sorted(found - {os.getpid()})


def record_session(home: Path, process: "Process") -> None:
    """Remember a process for whoever stops what this one leaves; its start tells it from others."""
    with (home / SESSIONS).open("a") as record:
        record.write(f"{process.pid} {_began(process.pid)}\n")


def _began(pid: int) -> str | None:
    """When a process started, in ticks since boot."""
    fields = _stat(pid)
    return fields[19] if fields else None


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _session(session: int) -> list[int]:
    """Live processes of a session: a child may have left the group, hardly ever the session."""
    return [pid for pid in _pids() if _session_and_state(pid) in {(session, s) for s in "RSDTtI"}]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _session_and_state(pid: int) -> tuple[int, str] | None:
    fields = _stat(pid)
    return (int(fields[3]), fields[0]) if fields else None


def _stat(pid: int) -> list[str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command may contain blanks and brackets: the fields start after its last bracket.
    return stat.rpartition(")")[2].split()


def resident_bytes(sessions: Sequence[int]) -> int:
    """Proportional set size of all processes of the sessions, in bytes."""
    total = 0
    for pid in _pids():
        entry = _session_and_state(pid)
        if entry and entry[0] in sessions:
            total += _pss(pid)
    return total


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
