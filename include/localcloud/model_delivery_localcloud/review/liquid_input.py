"""A human loop's input as Liquid sees it: lists and objects print as JSON, as in Augmented AI.

Its sample templates rely on that, e.g. `initial-value="{{ task.input.boxes }}"`. Liquid's own
printing of a list joins its members.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class LiquidList(Sequence[Any]):
    """A JSON array."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __getitem__(self, index: Any) -> Any:
        return liquid_input(self._items[index])

    def __len__(self) -> int:
        return len(self._items)

    def __str__(self) -> str:
        return as_json(self._items)


class LiquidObject(Mapping[str, Any]):
    """A JSON object."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def __getitem__(self, key: str) -> Any:
        return liquid_input(self._members[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __str__(self) -> str:
        return as_json(self._members)


def liquid_input(value: Any) -> Any:
    """Return a JSON value for Liquid."""
    if isinstance(value, list):
        return LiquidList(value)
    return LiquidObject(value) if isinstance(value, dict) else value


def as_json(value: Any) -> str:
    """Return JSON that is safe between `<script>` tags too."""
    text = json.dumps(_plain(value), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
