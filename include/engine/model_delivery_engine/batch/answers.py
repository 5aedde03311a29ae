"""Answers as JSON lines. Each output is written for a whole batch at once, then cut into rows.

``{"input": {fields}, "output": {tensor: value}, "error": null}`` for an answer;
``{"input": {the whole record}, "output": null, "error": {"reason", "uri", "offset"}}`` for a record
without one: that line is itself valid input.
"""

import itertools
from collections.abc import Iterator, Sequence

import orjson

from model_delivery_engine.batch.batch import Answers, Fault
from model_delivery_engine.tensors import Array


def json_text(answers: Answers) -> bytes:
    """Return one line for each record, in order, each with its line end."""
    if answers.faults:
        return b"".join(_lines_with_faults(answers))
    if not answers.count:
        return b""
    between, columns = _layout(answers)
    # One join of all pieces: a line's end and the next one's beginning are one piece.
    seam = between[-1] + between[0]
    fixed = [itertools.repeat(each) for each in (*between[1:-1], seam)]
    values = [answers.echoes, *columns]
    strips = itertools.chain.from_iterable(zip(values, fixed, strict=True))
    pieces = list(itertools.chain.from_iterable(zip(*strips, strict=False)))
    pieces[-1] = between[-1]
    return b"".join([between[0], *pieces])


def _layout(answers: Answers) -> tuple[list[bytes], list[Sequence[bytes]]]:
    """Return what stands around a line's values, and each output's values."""
    between = [b'{"input":', b',"output":{']
    columns: list[Sequence[bytes]] = []
    for name, array in answers.outputs.items():
        before, rows, after = json_rows(array)
        comma = b"," if columns else b""
        between[-1] += comma + orjson.dumps(name) + b":" + before
        between.append(after)
        assert len(rows) == len(answers.echoes)
        columns.append(rows)
    between[-1] += b'},"error":null}\n'
    return between, columns


def _lines_with_faults(answers: Answers) -> Iterator[bytes]:
    between, columns = _layout(answers)
    template = b"%b".join(each.replace(b"%", b"%%") for each in between)
    rows = zip(answers.echoes, *columns, strict=True)
    return _in_order(answers, (template % row for row in rows))


def _in_order(answers: Answers, answered: Iterator[bytes]) -> Iterator[bytes]:
    for place in range(answers.count):
        fault = answers.faults.get(place)
        yield next(answered) if fault is None else error_line(fault)


def error_line(fault: Fault) -> bytes:
    """Return the line of a record without an answer."""
    return b'{"input":%b,"output":null,"error":%b}\n' % (fault.record, orjson.dumps(fault.error()))


def json_rows(array: Array) -> tuple[bytes, Sequence[bytes], bytes]:
    """Return JSON text of each row of an array, and what belongs before and after each.

    Numbers have the fewest digits that read back as the same value of their own type.
    """
    count = len(array)
    if array.dtype == object or array.dtype.kind in "SU":
        return _text_rows(array.tolist(), lists=array.ndim > 1)
    if not array.size:
        return b"", [orjson.dumps(row) for row in array.tolist()], b""
    text = orjson.dumps(array if array.flags.c_contiguous else array.copy(),
                        option=orjson.OPT_SERIALIZE_NUMPY)  # fmt: skip
    depth = array.ndim - 1
    opening, closing = b"[" * depth, b"]" * depth
    rows = text[1 + depth : -1 - depth].split(closing + b"," + opening)
    assert len(rows) == count
    return opening, rows, closing


def _text_rows(rows: Sequence[object], *, lists: bool) -> tuple[bytes, Sequence[bytes], bytes]:
    if lists and rows:
        inner = orjson.dumps(rows)[2:-2].split(b"],[")
        if len(inner) == len(rows):  # more would mean that some text holds the separator
            return b"[", inner, b"]"
    return b"", [orjson.dumps(row) for row in rows], b""
