"""Running one task in a child process that can be killed, and reading how it went."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from model_delivery_engine.process_tree import end_tree

from model_delivery_localcloud.workers.child import OUTCOME
from model_delivery_localcloud.workers.folders import TEMPORARY
from model_delivery_localcloud.workers.work import (
    CLIENT_ERROR,
    INTERNAL_ERROR,
    WAITING,
    Outcome,
    Task,
)

TICK = 0.1
LOG_TAIL = 16_384
MOST_WAITING = 86_400.0  # seconds of one attempt: behind what hangs nobody is to wait for ever
# How a process ends that a model led into a fault of a library's native code.
_BROKEN = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
_COMMAND = [sys.executable, "-m", "model_delivery_localcloud.workers.child"]


def execute(task: Task, folder: Path, must_stop: Callable[[], bool]) -> Outcome | None:
    """Run the task in a child; None if it was killed because `must_stop` said so.

    `must_stop` is asked about ten times a second; what it raises kills the child too. What the
    task says that it waits (`tell_waiting`) does not count as its time, up to a day.
    """
    log_path = folder / "log.txt"
    started = looked = time.monotonic()
    waited = 0.0
    with log_path.open("wb") as log, _start(task, folder, log.fileno()) as child:
        try:
            while child.poll() is None:
                if must_stop():
                    return None
                before, looked = looked, time.monotonic()
                if (what := _waited_for(folder)) is not None:
                    waited += looked - before
                    if waited > MOST_WAITING:
                        return Outcome(INTERNAL_ERROR, _too_patient(what), log=_tail(log_path))
                if looked - started - waited > task.max_seconds:
                    return Outcome(CLIENT_ERROR, _too_long(waited), log=_tail(log_path))
                time.sleep(TICK)
        finally:
            _kill(child)
    return _outcome(child.returncode, folder, _tail(log_path))


def _start(task: Task, folder: Path, log: int) -> "subprocess.Popen[bytes]":
    # What asks the whole service to end (a terminal, systemd) must not fail the job: the child
    # inherits this mask, and only its worker ends it, by SIGKILL or by closing its pipe.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        child = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            process_group=0,
            # All that it writes goes with the job's folder, however it ends.
            env={**os.environ, "PYTHONSAFEPATH": "1", "TMPDIR": str(folder / TEMPORARY)},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert child.stdin is not None
    text = json.dumps({"kind": task.kind, "params": task.params, "folder": str(folder)})
    child.stdin.write(text.encode() + b"\n")
    child.stdin.flush()
    return child


def _kill(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        end_tree(child.pid)  # a converter has a session of its own
        child.wait()


def _outcome(code: int, folder: Path, log: str) -> Outcome:
    path = folder / OUTCOME
    if code == 0 and path.exists():
        return Outcome(**json.loads(path.read_text()), log=log)
    if -code in _BROKEN:
        # The same model would do it again: no fault that a retry could mend.
        name = signal.Signals(-code).name
        reason = (
            f"MODEL_INVALID: the model broke the process that read it ({name}); export it again"
        )
        return Outcome(CLIENT_ERROR, reason, log=log)
    if code < 0:
        name = signal.Signals(-code).name
        reason = f"PROCESS_KILLED: the job's process was killed by {name}; it may need more memory"
    else:
        reason = f"the job's process ended with code {code}; see the job's log"
    return Outcome(INTERNAL_ERROR, reason, log=log, killed=code == -signal.SIGKILL)


def _too_long(waited: float) -> str:
    aside = f", {waited:.0f} s of waiting not counted," if waited >= 1 else ""
    return (
        "RUNTIME_EXCEEDED: the job ran longer than its StoppingCondition.MaxRuntimeInSeconds"
        f"{aside} and was ended; give it more time, or a smaller model"
    )


def _waited_for(folder: Path) -> str | None:
    try:
        return (folder / WAITING).read_text()
    except FileNotFoundError:
        return None


def _too_patient(what: str) -> str:
    return (
        f"WAIT_EXCEEDED: the job waited {MOST_WAITING / 3600:g} hours in all, at last for {what}; "
        "see whether a process of the worker's machine hangs, then try it again"
    )


def _tail(path: Path) -> str:
    return path.read_bytes()[-LOG_TAIL:].decode("utf-8", "replace")
