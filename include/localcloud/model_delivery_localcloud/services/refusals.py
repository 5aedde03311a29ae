"""Members of AWS's inputs that localcloud does not honour: refused by name, never ignored."""

from collections.abc import Iterable, Mapping
from typing import Any

from model_delivery_localcloud.errors import validation_error


def refuse_members(params: Mapping[str, Any], paths: Iterable[str]) -> None:
    """Raise ValidationException if any of the dotted `paths` is given."""
    given = [path for path in paths if _at(params, path) is not None]
    if given:
        names = ", ".join(given)
        raise validation_error(f"localcloud does not support {names}: leave it out.")


def _at(params: Mapping[str, Any], path: str) -> Any:
    value: Any = params
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
