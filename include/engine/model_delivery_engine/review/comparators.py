"""Comparators of conditions: ``LessThan`` and the like behind a parameter's prefix."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from model_delivery_engine.errors import ConditionsError

Test = Callable[[float], bool]

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}


def comparator_names(prefix: str) -> list[str]:
    """Return the parameters that begin with a prefix: ``ConfidenceEquals`` and four more."""
    return [prefix + suffix for suffix in _OPERATORS]


def comparison(prefix: str, parameters: Mapping[str, Any], path: str) -> Test | None:
    """Return the test that all comparators of a prefix hold, or None where there are none.

    :param path: where the parameters stand, for the message
    :raises ConditionsError: a bound that is no number from 0 to 100
    """
    tests = []
    for suffix, compare in _OPERATORS.items():
        if prefix + suffix in parameters:
            bound = percentage(parameters[prefix + suffix], f"{path}.{prefix}{suffix}")
            tests.append(_test(compare, bound))
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    return lambda value: all(test(value) for test in tests)


def percentage(value: Any, path: str, least: float = 0.0) -> float:
    """Return a number from ``least`` to 100.

    :raises ConditionsError: what is none, by its path
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= 100.0:
        raise ConditionsError(f"{path} is {value!r}: give a number from {least:g} to 100")
    return float(value)


def _test(compare: Callable[[float, float], bool], bound: float) -> Test:
    return lambda value: compare(value, bound)
