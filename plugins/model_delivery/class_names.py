"""The names of a classifier's classes, as a task takes them."""

import json
from collections.abc import Sequence

from model_delivery.exceptions import InvalidRequestError


def class_names(labels: Sequence[str] | str | None) -> list[str] | None:
    """Return the names; None where there are none, and classes are their places.

    :param labels: a list of names, or its JSON text
    """
    if not labels:
        return None
    try:
        given = json.loads(labels) if isinstance(labels, str) else labels
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise TypeError
        return [str(each) for each in given] or None
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(
            f"labels is {labels!r}: give a list of names, or its JSON text"
        ) from error
