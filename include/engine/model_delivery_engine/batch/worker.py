"""A worker process: takes parts over a socket until that closes, which is how it is stopped."""

import gc
import shutil
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from model_delivery_engine.batch.runner import PartRunner, Work
from model_delivery_engine.batch.sinks import PartFile
from model_delivery_engine.errors import EngineError


def serve(connection: Connection) -> None:
    """Answer requests: ("batch_size",) or ("run", PartData, batch size).

    While a part runs, files of it are sent as ("file", PartFile), to be answered when each is put
    away.
    """
    work: Work = connection.recv()
    runner: PartRunner | None = None
    handing = _HandingOver(connection)
    while True:
        try:
            request = connection.recv()
        except (EOFError, ConnectionError):
            # The job is gone, perhaps killed: what it spooled has no other owner.
            shutil.rmtree(work.spool, ignore_errors=True)
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


class _HandingOver:
    """Hands files over, each when the one before is put away: two of them are on disk at most."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waits = False

    def __call__(self, file: PartFile) -> None:
        self.wait()
        self._connection.send(("file", file))
        self._waits = True

    def wait(self) -> None:
        """Return when all that was handed over is put away."""
        if self._waits:
            self._waits = False
            self._connection.recv()


def _answer(runner: PartRunner, request: tuple[Any, ...], handing: _HandingOver) -> Any:
    if request[0] == "batch_size":
        return runner.fastest_batch_size()
    return runner.run(request[1], request[2], handing)


if __name__ == "__main__":
    gc.disable()  # nothing here refers to itself, and each look at a part's lines costs
    serve(Connection(int(sys.argv[1])))
