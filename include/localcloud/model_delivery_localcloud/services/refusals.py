"""Members of AWS's inputs that localcloud does not honour: refused by name, never ignored."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.store.tables import UNSTORABLE


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


def refuse_unstorable(params: Mapping[str, Any], documents: Iterable[str] = ()) -> None:
    """Raise ValidationException for a text that no database stores as it is, and names it.

    That is NUL, or half of a surrogate pair. Kept as another character it would name another file.

    :param documents: dotted paths of texts that are JSON, in which such may be written as escapes
    """
    for path, text in _texts(params):
        if UNSTORABLE.search(text):
            raise _unstorable(path)
    for path in documents:
        text = _at(params, path)
        try:
            inside = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):  # whoever reads it says what it should be
            continue
        if any(UNSTORABLE.search(each) for _, each in _texts({path: inside})):
            raise _unstorable(path)


def _unstorable(path: str) -> ServiceError:
    return validation_error(
        f"{path} has a NUL character or half of a surrogate pair, which no text of a resource may "
        "have: remove it."
    )


def _texts(params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every text, keys of maps included, with the dotted path of its member."""
    waiting: list[tuple[str, Any]] = list(params.items())
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, Mapping):
            for key, each in value.items():
                yield path, key
                waiting.append((f"{path}.{key}", each))
        elif isinstance(value, list):
            waiting += [(f"{path}[{number}]", each) for number, each in enumerate(value)]
