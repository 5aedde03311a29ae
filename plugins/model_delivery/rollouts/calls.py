"""Calls as the steps of a generator: a worker and a triggerer run the same ones.

A step yields a `Call` and is sent its answer, or thrown the error that came instead.
"""

from collections.abc import Generator, Mapping
from typing import Any, TypeVar

from model_delivery.jobs.faults import error_code
from model_delivery.jobs.service import Call

Made = TypeVar("Made")
Steps = Generator[Call, Mapping[str, Any], Made]


class IotCall(Call):
    """A call of AWS IoT's; all others are Greengrass's."""


def pages(call: Call) -> Steps[list[Mapping[str, Any]]]:
    """Ask for all pages; return their answers."""
    answers = []
    page: Call | None = call
    while page is not None:
        answer = yield page
        answers.append(answer)
        page = page.after(answer)
    return answers


def code_of(error: Exception) -> str:
    """Return the service's error code, also of an error that explains another."""
    return error_code(error) or error_code(error.__cause__ or error)
