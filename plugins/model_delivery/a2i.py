"""The rules that Augmented AI states in prose, held against a request before any call.

What its model states (lengths, patterns, enums) is read from botocore instead: see
`hooks/constraints.py`. Source: SageMaker API, CreateFlowDefinition, HumanLoopConfig,
PublicWorkforceTaskPrice; Augmented AI developer guide.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from model_delivery.exceptions import InvalidRequestError

REKOGNITION = "AWS/Rekognition/DetectModerationLabels/Image/V3"
TEXTRACT = "AWS/Textract/AnalyzeDocument/Forms/V1"
REQUEST_SOURCES = (REKOGNITION, TEXTRACT)

PUBLIC_TEAM = ":workteam/public-crowd/"
NO_PERSONAL_DATA = "FreeOfPersonallyIdentifiableInformation"

_SMALL = (12, 24, 36, 48, 60, 72)
_STEP = 120
# US dollars in thousandths: what a reviewer of a public work team may be paid for a task.
_CUSTOM = (*_SMALL, *range(_STEP, 1200 + _STEP, _STEP))
_PRICES: Mapping[str | None, Sequence[int]] = {
    TEXTRACT: (*_SMALL, *range(_STEP, 2400 + _STEP, _STEP)),
    REKOGNITION: _CUSTOM,
    None: _CUSTOM,
}
_MOST_KEYWORDS = 5
_LONGEST_KEYWORD = 30
_SHORTEST_TIME_LIMIT = 30


def task_price(price: str | float | None, source: str | None, workteam_arn: str) -> Any:
    """Return PublicWorkforceTaskPrice, or None where the work team is not a public one.

    :param price: US dollars, for example "0.036"
    :param source: the request source; None for custom tasks
    :raises InvalidRequestError: a price that the list of the task's type does not have
    """
    public = PUBLIC_TEAM in workteam_arn
    if price in (None, ""):
        if public:
            raise InvalidRequestError(
                f"task_price is missing: a public work team is paid; {_listed(source)}"
            )
        return None
    if not public:
        raise InvalidRequestError(
            f"task_price is {price!r}, but {workteam_arn} is no public work team: "
            "PublicWorkforceTaskPrice pays workers of Mechanical Turk only; leave it out"
        )
    thousandths = _thousandths(price)
    if thousandths not in _PRICES[source]:
        raise InvalidRequestError(f"task_price is {price!r}: {_listed(source)}")
    dollars, rest = divmod(thousandths, 1000)
    cents, tenths = divmod(rest, 10)
    amount = {"Dollars": dollars, "Cents": cents, "TenthFractionsOfACent": tenths}
    return {"AmountInUsd": amount}


def _thousandths(price: str | float | None) -> int:
    try:
        exact = Decimal(str(price)) * 1000
    except InvalidOperation:
        return -1
    return int(exact) if exact.is_finite() and exact == int(exact) else -1


def _listed(source: str | None) -> str:
    prices = ", ".join(f"{each / 1000:.3f}" for each in _PRICES[source])
    return f"for {source or 'custom tasks'} Augmented AI takes, in US dollars, {prices}"


def request_source(source: str | None) -> str | None:
    """Return the request source, None for custom tasks; an unknown one is refused."""
    if source in (None, ""):
        return None
    if source not in REQUEST_SOURCES:
        raise InvalidRequestError(
            f"request_source is {source!r}: give {' or '.join(REQUEST_SOURCES)}, or none for "
            "custom tasks"
        )
    return source


def activation_conditions(given: Any, source: str | None) -> str | None:
    """Return HumanLoopActivationConditions as JSON text, None where there are none.

    :param given: JSON text, or what it stands for
    :raises InvalidRequestError: conditions of a custom task, or ones that break the grammar
    """
    if not given:
        return None
    if source is None:
        raise InvalidRequestError(
            "activation_conditions need a request_source: of custom tasks Augmented AI evaluates "
            "none, every loop that is started is reviewed; give them to HumanReviewOperator"
        )
    from model_delivery_engine.errors import ConditionsError
    from model_delivery_engine.review.conditions import parse_conditions
    from model_delivery_engine.review.inferences import Source

    try:
        parse_conditions(given, Source(source))
    except ConditionsError as error:
        raise InvalidRequestError(f"activation_conditions: {error}") from error
    return given if isinstance(given, str) else json.dumps(given)


def check_task(
    keywords: Sequence[str] | None, time_limit: int | None, availability: int | None
) -> None:
    """Hold a task's keywords and times against the rules.

    :param time_limit: TaskTimeLimitInSeconds
    :param availability: TaskAvailabilityLifetimeInSeconds
    """
    words = list(keywords or [])
    if len(words) > _MOST_KEYWORDS:
        raise InvalidRequestError(
            f"task_keywords has {len(words)} keywords: at most {_MOST_KEYWORDS} are allowed"
        )
    for word in words:
        plain = word.replace(" ", "").isalnum() and word.isascii() and "  " not in word
        if not plain or word != word.strip() or len(word) > _LONGEST_KEYWORD:
            raise InvalidRequestError(
                f"task_keywords: {word!r} is none: letters and digits with single spaces between, "
                f"at most {_LONGEST_KEYWORD} characters"
            )
    if time_limit is not None and time_limit < _SHORTEST_TIME_LIMIT:
        raise InvalidRequestError(
            f"task_time_limit_seconds is {time_limit}: give at least {_SHORTEST_TIME_LIMIT} seconds"
        )
    if availability is not None and availability < 1:
        raise InvalidRequestError(
            f"task_availability_seconds is {availability}: give at least 1 second"
        )


def data_attributes(classifiers: Sequence[str] | None, workteam_arn: str = "") -> dict[str, Any]:
    """Return StartHumanLoop's DataAttributes, as parameters of the call; empty where none."""
    given = list(classifiers or [])
    if PUBLIC_TEAM in workteam_arn and NO_PERSONAL_DATA not in given:
        raise InvalidRequestError(
            f"content_classifiers must have {NO_PERSONAL_DATA}: {workteam_arn} is a public crowd"
        )
    return {"DataAttributes": {"ContentClassifiers": given}} if given else {}
