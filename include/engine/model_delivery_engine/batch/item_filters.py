"""Filters by item attribute: Personalize's expressions over the items dataset.

``INCLUDE|EXCLUDE ItemID WHERE Items.FIELD IN ("a", "b") AND Items.YEAR > 1990``, several of them
joined by ``|``. What looks at anything but the items dataset is refused by name.

Source: https://docs.aws.amazon.com/personalize/latest/dg/creating-filter-expressions.html and, for
several expressions, https://docs.aws.amazon.com/personalize/latest/dg/multiple-expression-example.html
"""

import csv
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from model_delivery_engine.errors import BatchError

ID_COLUMN = "ITEM_ID"
MOST_FIELDS = 10  # distinct fields of one filter, by the service's quotas
_TOKEN = re.compile(r'\s*("[^"]*"|\'[^\']*\'|[A-Za-z_$][\w$.]*|-?\d+(?:\.\d+)?|[<>!]=|[<>=(),|*])')
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_EQUALITIES = {"=", "!="}

Attributes = Mapping[str, str]


class Number(str):
    """A number as the expression has it, without quotes: it equals any spelling of its value."""


@dataclass(frozen=True)
class Condition:
    """One condition on a field: an operator and its values: text without quotes, and numbers."""

    field: str
    operator: str
    values: tuple[str, ...]

    def holds(self, attributes: Attributes) -> bool:
        """Tell whether an item fits; of several values of a field, one has to."""
        text = attributes.get(self.field, "")
        if self.operator in _COMPARISONS:
            try:
                return _COMPARISONS[self.operator](float(text), float(self.values[0]))
            except ValueError:
                return False  # an item without the number is neither below nor above
        found = {part.strip() for part in text.split("|") if part.strip()}
        fits = bool(found) if "*" in self.values else any(map(self._equals_any, found))
        return fits if self.operator in {"IN", "="} else not fits

    def _equals_any(self, part: str) -> bool:
        if part in self.values:
            return True
        numbers = [float(value) for value in self.values if isinstance(value, Number)]
        return bool(numbers) and _is_number(part) and float(part) in numbers


@dataclass(frozen=True)
class Expression:
    """INCLUDE or EXCLUDE, and what it selects: one of the alternatives, each of conditions."""

    includes: bool
    alternatives: tuple[tuple[Condition, ...], ...]

    def selects(self, attributes: Attributes) -> bool:
        """Tell whether an item fits; AND binds before OR."""
        return any(all(each.holds(attributes) for each in all_of) for all_of in self.alternatives)


@dataclass(frozen=True)
class ItemFilter:
    """A parsed filter."""

    expressions: tuple[Expression, ...]

    @property
    def fields(self) -> frozenset[str]:
        """The item attributes it looks at, in capitals."""
        return frozenset(
            condition.field
            for expression in self.expressions
            for all_of in expression.alternatives
            for condition in all_of
        )

    def keeps(self, attributes: Attributes) -> bool:
        """Tell whether an item may be recommended."""
        including = [each for each in self.expressions if each.includes]
        excluding = [each for each in self.expressions if not each.includes]
        if any(each.selects(attributes) for each in excluding):
            return False
        return not including or any(each.selects(attributes) for each in including)

    def excluded(self, ids: Iterable[str], items: Mapping[str, Attributes]) -> tuple[str, ...]:
        """Return the ids that must not be recommended; an item without a row has no attributes."""
        return tuple(each for each in ids if not self.keeps(items.get(each.strip(), {})))


def parse_filter(text: str) -> ItemFilter:
    """Read a filter's expressions.

    :raises BatchError: a malformed expression, or one that is not supported; names the place
    """
    tokens = _Tokens(text)
    expressions = [_expression(tokens)]
    while tokens.take_if("|"):
        expressions.append(_expression(tokens))
    if rest := tokens.peek():
        raise tokens.refused(f"unexpected {rest}")
    found = ItemFilter(tuple(expressions))
    if len(found.fields) > MOST_FIELDS:
        raise BatchError(f"the filter looks at {len(found.fields)} fields; {MOST_FIELDS} are taken")
    return found


def read_items(lines: Iterable[str], wanted: Iterable[str]) -> dict[str, dict[str, str]]:
    """Read a CSV of items by id, keeping the attributes that are wanted (in capitals).

    :param lines: a header with ITEM_ID, then a row an item; several values are joined by ``|``;
        spaces around a cell or a value are not part of it
    :raises BatchError: no header, a column that is missing or comes twice, a row of more or fewer
        cells than columns, an item without an id, or one that comes twice
    """
    rows = csv.reader(lines)
    try:
        names = _header(next(rows, []))
        if missing := sorted({ID_COLUMN, *wanted} - set(names)):
            raise BatchError(
                f"the items have no column {missing[0]}; they have "
                f"{', '.join(names) or 'no header'}"
            )
        places = {each: names.index(each) for each in wanted}
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            if not row:
                continue
            where = f"the items' row in line {rows.line_num}"
            if len(row) != len(names):
                raise BatchError(f"{where} has {len(row)} cells for {len(names)} columns; mend it")
            item = row[names.index(ID_COLUMN)].strip()
            if not item:
                raise BatchError(f"{where} has no {ID_COLUMN}; name the item")
            if item in found:
                raise BatchError(f"{where} has {ID_COLUMN} {item!r} again; leave one row an item")
            found[item] = {each: row[place].strip() for each, place in places.items()}
    except csv.Error as error:
        raise BatchError(f"the items are no CSV in line {rows.line_num}: {error}") from error
    return found


def columns(header: str) -> frozenset[str]:
    """Return the attributes of a CSV of items, in capitals; BatchError without ITEM_ID."""
    found = _header(next(csv.reader([header]), []))
    if ID_COLUMN not in found:
        raise BatchError(f"the items have no column {ID_COLUMN}; the first line must be a header")
    return frozenset(found) - {ID_COLUMN}


def _header(cells: Sequence[str]) -> list[str]:
    names = [name.strip().upper() for name in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BatchError(f"the items have the column {twice[0]} twice; name each once")
    return names


class _Tokens:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_scan(text))
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._at += 1
        return token

    def take_if(self, *wanted: str) -> str:
        return self.take() if self.peek().upper() in wanted else ""

    def require(self, *wanted: str) -> str:
        token = self.take()
        if token.upper() not in wanted:
            raise self.refused(f"expected {' or '.join(wanted)}, found {token or 'the end'}")
        return token.upper()

    def refused(self, why: str) -> BatchError:
        return BatchError(f"filter expression {self._text!r}: {why}")


def _scan(text: str) -> Iterator[str]:
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise BatchError(f"filter expression {text!r}: cannot read {text[at:].strip()[:20]!r}")
        yield match[1]
        at = match.end()


def _expression(tokens: _Tokens) -> Expression:
    includes = tokens.require("INCLUDE", "EXCLUDE") == "INCLUDE"
    subject = tokens.take()
    if subject.upper() != "ITEMID":
        raise tokens.refused(f"{subject or 'nothing'} is not supported; filter ItemID")
    tokens.require("WHERE")
    alternatives = [[_condition(tokens)]]
    while joined := tokens.take_if("AND", "OR"):
        condition = _condition(tokens)
        if joined.upper() == "AND":
            alternatives[-1].append(condition)
        else:
            alternatives.append([condition])
    if tokens.peek().upper() == "IF":
        raise tokens.refused("IF conditions are not supported")
    return Expression(includes, tuple(map(tuple, alternatives)))


def _condition(tokens: _Tokens) -> Condition:
    place = tokens.take()
    dataset, _, field = place.partition(".")
    if dataset.upper() != "ITEMS" or not field:
        raise tokens.refused(f"{place or 'nothing'} is not supported; filter by Items.FIELD")
    symbol = tokens.require("IN", "NOT", *_EQUALITIES, *_COMPARISONS)
    if symbol == "NOT":
        tokens.require("IN")
        return Condition(field.upper(), "NOT IN", _values(tokens))
    if symbol == "IN":
        return Condition(field.upper(), "IN", _values(tokens))
    value = _value(tokens)
    if symbol in _COMPARISONS and not _is_number(value):
        raise tokens.refused(f"{symbol} compares numbers, found {value!r}")
    return Condition(field.upper(), symbol, (value,))


def _values(tokens: _Tokens) -> tuple[str, ...]:
    tokens.require("(")
    values = [_value(tokens)]
    while tokens.require(",", ")") == ",":
        values.append(_value(tokens))
    return tuple(values)


def _value(tokens: _Tokens) -> str:
    token = tokens.take()
    if token[:1] in {'"', "'"}:
        return token[1:-1]
    if token.startswith("$"):
        raise tokens.refused(f"the parameter {token} is not supported; write the value itself")
    if not _is_number(token):
        raise tokens.refused(f"expected a value in quotes or a number, found {token or 'the end'}")
    return Number(token)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
