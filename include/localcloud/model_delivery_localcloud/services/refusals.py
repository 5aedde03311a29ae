"""Members of AWS's inputs that localcloud does not honour: refused by name, never ignored."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from model_delivery_localcloud.errors import ServiceError, validation_error


def refuse_members(
    params: Mapping[str, Any],
    paths: Iterable[str],
    refused: Callable[[str], ServiceError] = validation_error,
) -> None:
    """Raise ValidationException, or what `refused` makes, if any of the dotted `paths` is given."""
    given = [path for path in paths if _at(params, path) is not None]
    if given:
        names = ", ".join(given)
        raise refused(f"localcloud does not support {names}: leave it out.")


def _at(params: Mapping[str, Any], path: str) -> Any:
    value: Any = params
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
