"""Many calls of a worker at a time, each asked until it is answered."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from model_delivery.exceptions import DeliveryError
from model_delivery.jobs.faults import error_code, is_credential_fault, is_passing
from model_delivery.jobs.rate import backoff
from model_delivery.jobs.retries import CREDENTIAL_REFUSALS, MAX_FAILURES, Pause

log = logging.getLogger(__name__)

Given = TypeVar("Given")
Made = TypeVar("Made")
CALLS_AT_A_TIME = 8
_QUEUED = 64


def each_at_once(work: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """Yield what comes of each, in order, with several under way; the first error ends it all."""
    with ThreadPoolExecutor(CALLS_AT_A_TIME, thread_name_prefix="human-loops") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for each in given:
                waiting.append(pool.submit(work, each))
                if len(waiting) >= _QUEUED:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def patiently(ask: Callable[[], Any], about: str, pause: Pause) -> Any:
    """Return the service's answer, waiting out what passes.

    :raises DeliveryError: when the service gave no answer for minutes, or the pause was cut.
    """
    failures = 0
    while True:
        try:
            return ask()
        except Exception as error:
            failures += 1
            credential = is_credential_fault(error)
            if not credential and not is_passing(error):
                raise
            if failures >= (CREDENTIAL_REFUSALS if credential else MAX_FAILURES) or pause.cut:
                raise DeliveryError(
                    f"{about}: {error}: check that the service is up and the connection's key is "
                    "good; a retry goes on where this try ended"
                ) from error
            log.warning("%s: %s %s (%d)", about, error_code(error), error, failures)
            pause.sleep(backoff(failures))
