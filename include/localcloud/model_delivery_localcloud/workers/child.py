"""The child process that does one task: `python -m model_delivery_localcloud.workers.child`.

It reads one line of JSON from standard input, writes `outcome.json` into the task's folder, and
ends at once when standard input closes, so that it never outlives its worker.
"""

import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

from model_delivery_engine.disk import disk_watched
from model_delivery_engine.errors import (
    ArchiveError,
    BatchError,
    BundleError,
    CompilationError,
    DiskFullError,
    EngineError,
    InferenceError,
    ParityError,
    Reason,
    ShortageError,
)
from model_delivery_engine.frameworks.sandbox import limit_process
from model_delivery_engine.process_tree import end_tree
from model_delivery_engine.settings import CompilerSettings

from model_delivery_localcloud.errors import (
    LocalcloudError,
    ObjectChanged,
    ObjectError,
    ObjectMissing,
)
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.workers.kinds import WORK
from model_delivery_localcloud.workers.work import CLIENT_ERROR, INTERNAL_ERROR

NICENESS = 10
OUTCOME = "outcome.json"
ORPHANED = 75
_USERS_FAULT = (
    ArchiveError, BatchError, BundleError, CompilationError, InferenceError, ObjectChanged,
    ObjectMissing, ParityError,
)  # fmt: skip

_OUT_OF_MEMORY = (
    f"{Reason.CONVERSION_MEMORY.value}: the job needs more memory than "
    "MODEL_DELIVERY_CONVERSION_MEMORY allows; give smaller dimensions, or raise it"
)


def main() -> None:
    """Do the task on standard input."""
    os.nice(NICENESS)
    limit_process(CompilerSettings.from_environment().limits)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_worker, args=(sys.stdin,), daemon=True).start()
    folder = Path(task["folder"])
    written = folder / f"{OUTCOME}.part"
    written.write_text(json.dumps(_do(task, folder)))
    written.rename(folder / OUTCOME)


def _do(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        objects = ObjectStore(Settings.from_environment())
        with disk_watched(folder, "the job's files"):
            return {"result": WORK[task["kind"]].run(task["params"], folder, objects)}
    except ShortageError as error:
        return {"fault": INTERNAL_ERROR, "reason": _reason(error), "killed": True}
    except DiskFullError as error:
        return {"fault": INTERNAL_ERROR, "reason": _reason(error)}
    except _USERS_FAULT as error:
        return {"fault": CLIENT_ERROR, "reason": _reason(error)}
    except MemoryError:
        return {"fault": CLIENT_ERROR, "reason": _OUT_OF_MEMORY}
    except Exception as error:
        # Recorded as the job's failure, with its traceback in the job's log.
        traceback.print_exc()
        return {"fault": INTERNAL_ERROR, "reason": _reason(error)}


def _reason(error: Exception) -> str:
    """Return what went wrong; the engine's errors are typed, and the type comes first."""
    if isinstance(error, EngineError):
        return f"{error.reason.value}: {error}"
    if isinstance(error, ObjectError):
        return f"{error.reason}: {error}"
    known = isinstance(error, LocalcloudError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _leave_with_the_worker(pipe: TextIO) -> None:
    while pipe.readline():
        pass
    end_tree(os.getpid(), spare=os.getpid())
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
