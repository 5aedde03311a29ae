"""A heartbeat: what a worker holds for a while is renewed in the background while it is at work."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from model_delivery_localcloud.errors import LeaseLost

log = logging.getLogger(__name__)


@contextmanager
def beating(renew: Callable[[], object], seconds: float, about: str) -> Iterator[None]:
    """Renew every so many seconds while the block runs; LeaseLost from `renew` ends it.

    A database that is away is tried again. What went wrong shows where the work is committed.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                renew()
            except LeaseLost:
                return
            except SQLAlchemyError as error:
                log.warning("%s: not renewed: %s", about, error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
