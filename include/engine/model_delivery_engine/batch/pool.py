"""Where parts are run: in this process, or in worker processes of their own.

Processes, not threads: parsing and writing JSON hold Python's lock. They are started as programs,
so that it does not matter what process they are started from (a Celery worker's child, a thread).
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol

from model_delivery_engine.batch.parts import PART_S, PartData
from model_delivery_engine.batch.runner import Counted, PartOutcome, PartRunner, Work
from model_delivery_engine.batch.sinks import HandOver
from model_delivery_engine.errors import BatchError, ShortageError, StoppedError

_END_S = 10.0
_START_S = 1.0  # of a process, until it runs its first part
# glibc's allocator keeps what a part frees for the next part, instead of giving it back to the
# kernel and faulting it in again, page by page. Other allocators do not read these.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024),
}


class Pool(Protocol):
    """Runs parts; every method may be called from several threads at a time."""

    def fastest_batch_size(self) -> int:
        """Return the batch size that this machine runs the model best with."""

    def seconds(self, data: PartData, batch_size: int) -> float:
        """Return about how long a part will take; 0 where that cannot be said."""

    def run(
        self, data: PartData, batch_size: int, hand_over: HandOver, counted: Counted
    ) -> PartOutcome:
        """Run a part, when a process is free for it.

        :param hand_over: puts a file of answers away, where those are many, while the part runs; a
            part that is run twice leaves the same files again
        :param counted: is told how far the part is, every second; of one that is run twice, again
        """

    def stop(self) -> None:
        """End what runs, which is lost, and start nothing more: `run` raises StoppedError."""

    def close(self) -> None:
        """End the processes; what they do is lost."""


class InProcess:
    """One runner in this process, for jobs too small to be worth a start."""

    def __init__(self, work: Work) -> None:
        self._runner = PartRunner(work)
        self._lock = threading.Lock()

    def fastest_batch_size(self) -> int:
        """Measure it here."""
        return self._runner.fastest_batch_size()

    def seconds(self, data: PartData, batch_size: int) -> float:
        """Run the beginning of it here."""
        return self._runner.seconds(data, batch_size)

    def run(
        self, data: PartData, batch_size: int, hand_over: HandOver, counted: Counted
    ) -> PartOutcome:
        """Run a part after those before it."""
        with self._lock:
            return self._runner.run(data, batch_size, hand_over, counted)

    def stop(self) -> None:
        """Nothing to end: the part that runs comes to its end."""

    def close(self) -> None:
        """Nothing to end."""


class Growing:
    """Begins in this process, and goes on in others once what is left is worth their start.

    Bytes tell nothing of the work behind them, but the first parts do.

    :param most: processes at most
    :param positions: what there is to run; None where nobody knows: then it is worth it when as
        much as a start has gone by
    """

    def __init__(self, work: Work, most: int, positions: int | None) -> None:
        self._work, self._most, self._positions = work, most, positions
        self._pool: InProcess | Processes = InProcess(work)
        self._ran, self._took = 0, 0.0
        self._turn = threading.Lock()
        self._stopping = threading.Lock()
        self._stopped = False

    def fastest_batch_size(self) -> int:
        """Measure it where the next part runs: here, since none was run yet."""
        return self._pool.fastest_batch_size()

    def seconds(self, data: PartData, batch_size: int) -> float:
        """Run the beginning of it here; it tells already whether others are worth their start."""
        seconds = self._pool.seconds(data, batch_size)
        if self._positions is not None:
            whole = seconds * self._positions / max(data.part.end - data.part.start, 1)
            self._grow(whole - min(seconds, PART_S))
        return seconds

    def run(
        self, data: PartData, batch_size: int, hand_over: HandOver, counted: Counted
    ) -> PartOutcome:
        """Run a part, here or in another process."""
        with self._turn:
            if self._stopped:
                raise StoppedError(f"{self._work.uri}: stopped")
            if isinstance(self._pool, InProcess):
                started = time.monotonic()
                outcome = self._pool.run(data, batch_size, hand_over, counted)
                self._took += time.monotonic() - started
                self._ran += data.part.end - data.part.start
                self._grow(self._left_s())
                return outcome
        return self._pool.run(data, batch_size, hand_over, counted)

    def _grow(self, left_s: float) -> None:
        count = min(self._most, int(left_s / _START_S))
        with self._stopping:
            if count > 1 and not self._stopped:
                self._pool = Processes(self._work, count)

    def _left_s(self) -> float:
        """Return the seconds that the rest would take here; many where nobody knows."""
        if self._positions is None:
            return self._most * _START_S if self._took > _START_S else 0.0
        return self._took / max(self._ran, 1) * (self._positions - self._ran)

    def stop(self) -> None:
        """End what runs in other processes; a part that runs here comes to its end."""
        with self._stopping:
            self._stopped = True
            self._pool.stop()

    def close(self) -> None:
        """End the processes, if any."""
        self._pool.close()


class WorkerDiedError(Exception):
    """The process ended before it answered.

    :param code: as `subprocess.Popen.returncode`; None where it could not be had
    """

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit code {code}")
        self.killed = code == -signal.SIGKILL


class Processes:
    """Worker processes, each with a runner of its own.

    :param count: processes
    """

    def __init__(self, work: Work, count: int) -> None:
        self._work = work
        self._all = [_Worker(work) for _ in range(count)]
        self._free: queue.Queue[_Worker] = queue.Queue()
        self._stopping = threading.Lock()
        self._stopped = False
        for each in self._all:
            self._free.put(each)

    def fastest_batch_size(self) -> int:
        """Measure it in one of them."""
        with self._worker() as worker:
            try:
                return int(worker.ask("batch_size"))
            except WorkerDiedError as death:
                raise BatchError(
                    f"{self._work.uri}: the process that measured the batch size died ({death}), "
                    "as after too much memory; give a batch_size"
                ) from death

    def seconds(self, data: PartData, batch_size: int) -> float:
        """Run the beginning of it in one of them; what that dies of, the part will die of."""
        with self._worker() as worker:
            try:
                return float(worker.ask("seconds", data, batch_size))
            except WorkerDiedError as death:
                self._restart(worker, death)
                return 0.0

    def run(
        self, data: PartData, batch_size: int, hand_over: HandOver, counted: Counted
    ) -> PartOutcome:
        """Run a part; if the process dies of it, once more in a new one.

        :raises ShortageError: the process was killed twice, as by a kernel that is short of memory
        :raises BatchError: the process died twice by itself, or refused the part
        :raises StoppedError: `stop` ended it
        """
        with self._worker() as worker:
            for last in (False, True):
                try:
                    outcome: PartOutcome = worker.ask(
                        "run", data, batch_size, hand_over=hand_over, counted=counted
                    )
                except WorkerDiedError as death:
                    self._restart(worker, death)
                    if last:
                        kind = ShortageError if death.killed else BatchError
                        raise kind(
                            f"{self._work.uri}: the process that ran records {data.part.start} to "
                            f"{data.part.end} died twice ({death}), as after too much memory; "
                            "lower batch_size or processes, or take these records out"
                        ) from death
                else:
                    return outcome
        raise AssertionError("unreachable")

    def _restart(self, worker: "_Worker", death: WorkerDiedError) -> None:
        with self._stopping:  # else one could be started that nobody ends
            if self._stopped:
                raise StoppedError(f"{self._work.uri}: stopped") from death
            worker.restart()

    def stop(self) -> None:
        """Kill every process, for good."""
        with self._stopping:
            self._stopped = True
            for each in self._all:
                each.kill()

    def close(self) -> None:
        """End every process."""
        for each in self._all:
            each.end()

    @contextlib.contextmanager
    def _worker(self) -> Iterator["_Worker"]:
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)


class _Worker:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-P", "-m", "model_delivery_engine.batch.worker", str(fd)]
            self._process = subprocess.Popen(
                command, pass_fds=[fd], stdin=subprocess.DEVNULL, env={**_KEEP_MEMORY, **os.environ}
            )
        self._connection = Connection(ours.detach())
        with contextlib.suppress(BrokenPipeError):  # dead already, which the first request finds
            self._connection.send(self._work)

    def restart(self) -> None:
        self.end()
        self._start()

    def ask(
        self, *request: Any, hand_over: HandOver | None = None, counted: Counted | None = None
    ) -> Any:
        """Return the worker's answer.

        :param hand_over: takes the files that come before it
        :param counted: takes the counts that come before it
        :raises WorkerDiedError: it ended instead
        :raises EngineError: it refused
        :raises OSError: it could not read
        :raises BatchError: it failed for a reason of its own
        """
        self._send(request)
        while True:
            kind, value = self._receive()
            try:
                if kind == "file" and hand_over is not None:
                    hand_over(value)
                    self._send(None)
                elif kind == "counted" and counted is not None:
                    counted(*value)
                else:
                    break
            except WorkerDiedError:
                raise
            except BaseException:
                self.kill()  # it is in the middle of a part, which its next answer would be to
                raise
        if kind == "refused":
            raise value
        if kind == "failed":
            raise BatchError(f"{self._work.uri}: a worker process failed:\n{value}")
        return value

    def _send(self, message: object) -> None:
        with self._death_seen():
            self._connection.send(message)

    def _receive(self) -> tuple[str, Any]:
        with self._death_seen():
            answer: tuple[str, Any] = self._connection.recv()
        return answer

    @contextlib.contextmanager
    def _death_seen(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            raise WorkerDiedError(self._process.returncode) from error

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        # Killed before it can take the closed socket for the job's end, and clear the spool.
        self.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._connection.close()


def open_pool(work: Work, processes: int) -> Pool:
    """Return a pool of that many processes; of one, it is this process."""
    return Processes(work, processes) if processes > 1 else InProcess(work)
