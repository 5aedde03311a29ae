"""Answers as JSON lines. Each output is written for a whole batch at once, then cut into rows.

``{"input": {fields}, "output": {tensor: value}, "error": null}`` for an answer;
``{"input": {the whole record}, "output": null, "error": {"reason", "uri", "offset"}}`` for a record
without one: that line is itself valid input.
"""

from collections.abc import Iterator, Sequence

import orjson

from model_delivery_engine.batch.batch import Answers, Fault
from model_delivery_engine.tensors import Array


def json_lines(answers: Answers) -> list[bytes]:
    """Return one line for each record, in order, with its line end."""
    names = list(answers.outputs)
    columns = [json_rows(answers.outputs[name]) for name in names]
    outputs = b",".join(b"%b:%%b" % _escaped(orjson.dumps(name)) for name in names)
    template = b'{"input":%b,"output":{' + outputs + b'},"error":null}\n'
    lines = [template % row for row in zip(answers.echoes, *columns, strict=True)]
    if not answers.faults:
        return lines
    answered = iter(lines)
    return list(_in_order(answers, answered))


def _in_order(answers: Answers, answered: Iterator[bytes]) -> Iterator[bytes]:
    for place in range(answers.count):
        fault = answers.faults.get(place)
        yield next(answered) if fault is None else error_line(fault)


def error_line(fault: Fault) -> bytes:
    """Return the line of a record without an answer."""
    return b'{"input":%b,"output":null,"error":%b}\n' % (fault.record, orjson.dumps(fault.error()))


def json_rows(array: Array) -> Sequence[bytes]:
    """Return JSON text of each row of an array.

    Numbers have the fewest digits that read back as the same value of their own type.
    """
    count = len(array)
    if array.dtype == object or array.dtype.kind in "SU":
        return _text_rows(array.tolist(), lists=array.ndim > 1)
    if not array.size:
        return [orjson.dumps(row) for row in array.tolist()]
    text = orjson.dumps(array if array.flags.c_contiguous else array.copy(),
                        option=orjson.OPT_SERIALIZE_NUMPY)  # fmt: skip
    if array.ndim == 1:
        return text[1:-1].split(b",")
    depth = array.ndim - 1
    opening, closing = b"[" * depth, b"]" * depth
    inner = text[1 + depth : -1 - depth].split(closing + b"," + opening)
    assert len(inner) == count
    return [opening + row + closing for row in inner]


def _text_rows(rows: Sequence[object], *, lists: bool) -> Sequence[bytes]:
    if lists and rows:
        inner = orjson.dumps(rows)[2:-2].split(b"],[")
        if len(inner) == len(rows):  # more would mean that some text holds the separator
            return [b"[%b]" % row for row in inner]
    return [orjson.dumps(row) for row in rows]


def _escaped(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")
