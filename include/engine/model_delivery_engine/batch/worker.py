"""A worker process: takes parts over a socket until that closes, which is how it is stopped."""

import gc
import shutil
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from model_delivery_engine.batch.runner import PartRunner, Work
from model_delivery_engine.errors import EngineError


def serve(connection: Connection) -> None:
    """Answer requests: ("batch_size",) or ("run", PartData, batch size)."""
    work: Work = connection.recv()
    runner: PartRunner | None = None
    while True:
        try:
            request = connection.recv()
        except (EOFError, ConnectionError):
            # The job is gone, perhaps killed: what it spooled has no other owner.
            shutil.rmtree(work.spool, ignore_errors=True)
            return
        try:
            runner = runner or PartRunner(work)
            answer: tuple[str, Any] = ("done", _answer(runner, request))
        except (EngineError, OSError) as error:  # a disk that fails may be well again
            answer = ("refused", error)
        except Exception:
            answer = ("failed", traceback.format_exc())
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionError):
            continue  # the next recv finds the end


def _answer(runner: PartRunner, request: tuple[Any, ...]) -> Any:
    if request[0] == "batch_size":
        return runner.fastest_batch_size()
    return runner.run(request[1], request[2])


if __name__ == "__main__":
    gc.disable()  # nothing here refers to itself, and each look at a part's lines costs
    serve(Connection(int(sys.argv[1])))
