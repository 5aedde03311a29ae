"""A worker process: takes parts over a socket, and ends when that closes, whatever it does then."""

import gc
import os
import select
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from model_delivery_engine.batch.runner import PartRunner, Work
from model_delivery_engine.batch.sinks import PartFile
from model_delivery_engine.errors import EngineError
from model_delivery_engine.scratch import remove_scratch


def serve(connection: Connection) -> None:
    """Answer requests: ("batch_size",), ("seconds", PartData, batch size) or ("run", the same).

    While a part runs, files of it are sent as ("file", PartFile), to be answered when each is put
    away, and ("counted", (records, errors)), which is not answered.
    """
    work: Work = connection.recv()
    end = threading.Thread(target=_end_with, args=(connection, work), daemon=True)
    end.start()
    runner: PartRunner | None = None
    handing = _HandingOver(connection)
    while True:
        try:
            request = connection.recv()
        except (EOFError, ConnectionError):
            end.join()
            return
        try:
            runner = runner or PartRunner(work)
            answer: tuple[str, Any] = ("done", _answer(runner, request, handing))
        except (EngineError, OSError) as error:  # a disk that fails may be well again
            answer = ("refused", error)
        except Exception:
            answer = ("failed", traceback.format_exc())
        try:
            handing.wait()
            connection.send(answer)
        except (EOFError, BrokenPipeError, ConnectionError):
            continue  # the next recv finds the end


def _end_with(connection: Connection, work: Work) -> None:
    """End this process, in mid-run too, when the job is gone, perhaps killed.

    What it spooled, and the bundle that it fetched, have no other owner.
    """
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # of which a hang-up is told always
    poll.poll()
    remove_scratch(work.spool)
    remove_scratch(work.model_path)
    os._exit(0)


class _HandingOver:
    """Hands files over, each when the one before is put away: two of them are on disk at most."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waits = False

    def __call__(self, file: PartFile) -> None:
        self.wait()
        self._connection.send(("file", file))
        self._waits = True

    def counted(self, records: int, errors: int) -> None:
        """Tell how far the part is."""
        self._connection.send(("counted", (records, errors)))

    def wait(self) -> None:
        """Return when all that was handed over is put away."""
        if self._waits:
            self._waits = False
            self._connection.recv()


def _answer(runner: PartRunner, request: tuple[Any, ...], handing: _HandingOver) -> Any:
    if request[0] == "batch_size":
        return runner.fastest_batch_size()
    if request[0] == "seconds":
        return runner.seconds(request[1], request[2])
    return runner.run(request[1], request[2], handing, handing.counted)


if __name__ == "__main__":
    gc.disable()  # nothing here refers to itself, and each look at a part's lines costs
    serve(Connection(int(sys.argv[1])))
