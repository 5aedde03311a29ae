"""A bound on the memory of this process while it works on somebody's model.

A model of 200 bytes can ask for any amount: a constant's shape, a loop that keeps what it makes. No
arithmetic over shapes foresees all of it, so the kernel is asked to refuse: ONNX Runtime, numpy and
protobuf say so, and the process, which may be a task's, lives on.
"""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_delivery_engine.errors import MemoryShortError

_STATUS = Path("/proc/self/status")


class _Bound:
    """The bound of this process, which several threads may need at a time: the first one's holds.

    It is the soft limit, which a process may raise again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = resource.RLIM_INFINITY

    def enter(self, most_bytes: int) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            most = _private_bytes() + most_bytes
            for limit in (soft, hard):
                most = most if limit == resource.RLIM_INFINITY else min(most, limit)
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
            self._before = soft

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                _, hard = resource.getrlimit(resource.RLIMIT_DATA)
                resource.setrlimit(resource.RLIMIT_DATA, (self._before, hard))


_bound = _Bound()


@contextmanager
def memory_bounded(most_bytes: int) -> Iterator[None]:
    """Hold this process to some memory beyond what it has, and what it starts to the same sum.

    Nothing is bounded on a system without ``/proc`` (macOS), whose kernel does not count it.

    :param most_bytes: private memory, which is all but files and libraries that are mapped
    :raises MemoryShortError: there was too little, and nobody closer to it said so
    """
    if not _STATUS.is_file():
        yield
        return
    _bound.enter(most_bytes)
    try:
        yield
    except MemoryError as error:
        raise MemoryShortError(
            f"the model needs more memory than the {most_bytes >> 20} MiB of "
            "MODEL_DELIVERY_CONVERSION_MEMORY; give smaller dimensions, or raise it"
        ) from error
    finally:
        _bound.leave()


def _private_bytes() -> int:
    """Return what this process has of what the kernel's limit counts."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
