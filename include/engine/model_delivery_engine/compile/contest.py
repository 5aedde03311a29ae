"""A candidate against the source on plain ONNX Runtime: latency and throughput, taken in turns.

Each comparison holds two sessions, and none longer than it needs them.
"""

import contextlib
import logging
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from model_delivery_engine.errors import (
    CompilationError,
    InferenceError,
    MemoryShortError,
    Reason,
)
from model_delivery_engine.latency import (
    CORES,
    SECONDS,
    THREADS,
    batch_of,
    interleave,
    relative_throughput,
    speedup,
)
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.tensors import Array
from model_delivery_engine.waits import locked

log = logging.getLogger(__name__)

TOLERANCE = 0.02  # two figures this close are taken for equal
_LOOKS = 3
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)  # of the locks, if any


def load_model(path: Path, options: object, seconds: float | None = None) -> Model:
    """Open a model of the compiler's own making; CompilationError where ONNX Runtime cannot.

    :param seconds: after which a run is stopped (default: never)
    :raises MemoryShortError: it has too little memory for the model
    """
    try:
        return Model(open_session(path, options), path.name, seconds)
    except MemoryShortError:
        raise
    except InferenceError as error:
        if error.reason is Reason.TENSOR_UNSUPPORTED:
            raise CompilationError(str(error), reason=error.reason) from error
        if newest := _FORMAT.search(str(error)):
            raise CompilationError(
                f"{path.name} is in a newer format than ONNX Runtime here reads: export it with "
                f"ir_version={newest[1]} or lower",
                reason=Reason.OPSET_TOO_NEW,
            ) from error
        found = _OPERATOR.search(str(error))
        operator = (found[1] or found[2]).replace(":", ".") if found else None
        text = f"operator {operator} is not in this ONNX Runtime: {error}" if operator else error
        raise CompilationError(
            f"{text}; export the model with standard operators only",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=operator,
        ) from error


_FORMAT = re.compile(r"max supported IR version: (\d+)")
# What ONNX Runtime says of an operator that it does not know, or has no CPU kernel of.
_OPERATOR = re.compile(
    r"([\w.:]+)\(-?\d+\) is not a registered function/op"
    r"|could not find an implementation for (?:the node \S*?:)?([\w.]+)\(",
    re.IGNORECASE,
)


@contextlib.contextmanager
def taking_turns(folder: Path) -> Iterator[None]:
    """Have figures of the block taken in turns with other jobs that name the same folder.

    A worker does as many jobs at a time as there are cores: on every core at once two throughputs
    would be each other's load.

    :param folder: for the locks, made where it is not there; nothing of it may be in a sandbox
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait for this job's turn to be timed, and have the others wait meanwhile.

    Two locks, since whoever gives one up and wants it back is faster than those who wait for it:
    one of them has the first lock already, and alone waits for the second.
    """
    folder = _folder.get()
    with contextlib.ExitStack() as held:
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with locked(folder / ".timed-next.lock", "other jobs, which wait to be timed"):
                    held.enter_context(locked(folder / ".timed.lock", "another job's figures"))
            except OSError as error:  # a folder that is only read, a file system without locks
                log.warning("this job is timed while others may be: %s", error)
        yield


def latency(source: Path, candidate: Path, inputs: Mapping[str, Array]) -> tuple[float, float]:
    """Return a candidate's median time of one run in milliseconds, and its speedup."""
    models = [load_model(path, session_options(THREADS)) for path in (source, candidate)]
    times = interleave(models, inputs)
    return statistics.median(times[1]), speedup(times)


def throughput(source: Path, candidate: Path, inputs: Mapping[str, Array]) -> float:
    """Return a candidate's throughput on every core, by the source's.

    Other processes on the machine take now from one and now from the other; a figure that says
    slower is taken again, up to three times while there is time, and the best of them counts.
    """
    plain, model = (load_model(path, session_options(CORES)) for path in (source, candidate))
    batch = batch_of(plain, inputs)
    return _best_look(lambda: relative_throughput(plain, model, batch))


def holds_its_own(source: Path, candidate: Path, inputs: Mapping[str, Array]) -> str | None:
    """Look again at both figures of a candidate; return what is slower than the source, or None.

    Of three looks the middle one counts: what won by luck has no luck in two of them. A model that
    is so slow that one look takes all the time has one.
    """
    looks: dict[str, Callable[[], float]] = {
        "latency": lambda: latency(source, candidate, inputs)[1],
        "throughput": lambda: throughput(source, candidate, inputs),
    }
    for name, look in looks.items():
        with alone():
            if _middle_look(look) < 1 / (1 + TOLERANCE):
                return name
    return None


def _middle_look(look: Callable[[], float]) -> float:
    return statistics.median(_looks(look))


def _best_look(look: Callable[[], float]) -> float:
    best = 0.0
    for found in _looks(look):
        best = max(best, found)
        if best >= 1 / (1 + TOLERANCE):
            break
    return best


def _looks(look: Callable[[], float]) -> Iterator[float]:
    until = time.monotonic() + SECONDS
    for _ in range(_LOOKS):
        yield look()
        if time.monotonic() >= until:
            break
