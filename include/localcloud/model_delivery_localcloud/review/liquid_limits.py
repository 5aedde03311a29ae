"""Limits on Liquid's filters and blocks, which the library lets take any time, and memory.

A template is somebody's program over somebody else's data, and runs for every item: a range of the
data's choosing, joined, or a text that replacements make ten times as long, nine times over.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TextIO

from liquid import Environment, RenderContext, Token
from liquid.ast import BlockNode
from liquid.builtin.tags.for_tag import ForNode, ForTag
from liquid.builtin.tags.if_tag import IfNode, IfTag
from liquid.builtin.tags.tablerow_tag import TablerowNode, TablerowTag
from liquid.builtin.tags.unless_tag import UnlessNode, UnlessTag
from liquid.exceptions import LiquidError
from liquid.tag import Tag

LONGEST_TEXT = 8 * 1024 * 1024
LONGEST_LIST = 100_000
LONGEST_DATE = 200
MOST_BITS = 4096
SECONDS = 5.0
_WIDE = re.compile(r"%\D?\d{3}")
_deadline: ContextVar[float] = ContextVar("deadline")

Filter = Callable[..., Any]


class LimitExceeded(LiquidError):
    """A template asks for more than it is given; the message says of what."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Let filters, loops and conditions within the block run for 5 s in all."""
    before = _deadline.set(time.monotonic() + SECONDS)
    try:
        yield
    finally:
        _deadline.reset(before)


def limited(filters: Mapping[str, Filter]) -> dict[str, Filter]:
    """Return filters that refuse what is too large before they make it, and run for so long."""
    return {name: _limited(name, work) for name, work in filters.items()}


def _limited(name: str, work: Filter) -> Filter:
    size = _SIZES.get(name)

    @wraps(work)
    def run(value: Any, *arguments: Any, **options: Any) -> Any:
        _check_time()
        for each in (value, *arguments):
            _check(each)
        if size is not None:
            _check_length(size(value, *arguments))
        result = work(value, *arguments, **options)
        _check(result)
        return result

    return run


def limit_blocks(environment: Environment) -> None:
    """Have an environment's loops and conditions look at the time, at each turn of theirs."""
    for tag in _BLOCKS:
        environment.add_tag(tag)


def _check_time() -> None:
    if time.monotonic() > _deadline.get(float("inf")):
        raise LimitExceeded(f"it takes longer than {SECONDS:g} s", token=None)


class _Block(BlockNode):
    """What is between a loop's tags."""

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        _check_time()
        return super().render_to_output(context, buffer)


def _timed(block: BlockNode) -> BlockNode:
    return _Block(block.token, block.nodes)


class _ForNode(ForNode):
    def __init__(
        self, token: Token, expression: Any, block: BlockNode, default: Any = None
    ) -> None:
        super().__init__(token, expression, _timed(block), default)


class _TablerowNode(TablerowNode):
    def __init__(self, token: Token, expression: Any, block: BlockNode) -> None:
        super().__init__(token, expression, _timed(block))


class _IfNode(IfNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        _check_time()
        return super().render_to_output(context, buffer)


class _UnlessNode(UnlessNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        _check_time()
        return super().render_to_output(context, buffer)


class _For(ForTag):
    node_class = _ForNode


class _Tablerow(TablerowTag):
    node_class = _TablerowNode


class _If(IfTag):
    node_class = _IfNode


class _Unless(UnlessTag):
    node_class = _UnlessNode


_BLOCKS: tuple[type[Tag], ...] = (_For, _Tablerow, _If, _Unless)


def _check(value: Any) -> None:
    if isinstance(value, str):
        _check_length(len(value))
    elif isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise LimitExceeded(f"a number has more than {MOST_BITS} bits", token=None)
    elif isinstance(value, Sequence) and len(value) > LONGEST_LIST:
        raise LimitExceeded(f"a list has more than {LONGEST_LIST} members", token=None)


def _check_length(length: int) -> None:
    if length > LONGEST_TEXT:
        raise LimitExceeded(f"a text has more than {LONGEST_TEXT} characters", token=None)


def _joined(value: Any, separator: Any = " ") -> int:
    length, between = 0, len(str(separator))
    for each in value if isinstance(value, Iterable) else ():
        length += len(str(each)) + between
        if length > LONGEST_TEXT:
            break
    return length


def _replaced(value: Any, old: Any, new: Any = "") -> int:
    text = str(value)
    return len(text) + text.count(str(old)) * len(str(new))


def _dated(value: Any, layout: Any = "") -> int:
    # A field may be as wide as its format says.
    if len(str(value)) > LONGEST_DATE or len(str(layout)) > LONGEST_DATE:
        raise LimitExceeded(f"a date has more than {LONGEST_DATE} characters", token=None)
    if _WIDE.search(str(layout)):
        raise LimitExceeded("a date's field is too wide", token=None)
    return 0


# How long a text would become, of the filters that multiply.
_SIZES: Mapping[str, Callable[..., int]] = {
    "join": _joined, "replace": _replaced, "date": _dated,
}  # fmt: skip
