"""Answers as JSON lines. Each output is written for a whole batch at once, then cut into rows.

``{"input": {fields}, "output": {tensor: value}, "error": null}`` for an answer;
``{"input": {the whole record}, "output": null, "error": {"reason", "uri", "offset"}}`` for a record
without one: that line is itself valid input.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import orjson

from model_delivery_engine.batch.batch import Answers, Fault
from model_delivery_engine.batch.labels import Labels
from model_delivery_engine.tensors import Array

NO_LABELS: Mapping[str, Labels] = {}


def error_line(fault: Fault) -> bytes:
    """Return the line of a record without an answer."""
    return b'{"input":%b,"output":null,"error":%b}\n' % (fault.record, orjson.dumps(fault.error()))


def json_text(
    answers: Answers,
    labels: Mapping[str, Labels] = NO_LABELS,
    without_answer: Callable[[Fault], bytes] = error_line,
) -> bytes:
    """Return one line for each record, in order, each with its line end.

    :param labels: outputs that hold places of texts, and the texts (default: none)
    :param without_answer: writes the line of a record that has none
    """
    if answers.faults:
        return b"".join(_lines_with_faults(answers, labels, without_answer))
    if not answers.count:
        return b""
    between, columns = _layout(answers, labels)
    # One join of all pieces: a line's end and the next one's beginning are one piece.
    count, step = answers.count, 2 * len(columns) + 2
    pieces = [between[-1] + between[0]] * (step * count + 1)
    pieces[0] = between[0]
    for n, values in enumerate((answers.echoes, *columns)):
        pieces[2 * n + 1 :: step] = values
    for n, fixed in enumerate(between[1:-1]):
        pieces[2 * n + 2 : -1 : step] = [fixed] * count
    pieces[-1] = between[-1]
    return b"".join(pieces)


def _layout(
    answers: Answers, labels: Mapping[str, Labels]
) -> tuple[list[bytes], list[Sequence[bytes]]]:
    """Return what stands around a line's values, and each output's values."""
    between = [b'{"input":', b',"output":{']
    columns: list[Sequence[bytes]] = []
    for name, array in answers.outputs.items():
        before, rows, after = (
            _label_rows(labels[name], array) if name in labels else json_rows(array)
        )
        comma = b"," if columns else b""
        between[-1] += comma + orjson.dumps(name) + b":" + before
        between.append(after)
        assert len(rows) == len(answers.echoes)
        columns.append(rows)
    between[-1] += b'},"error":null}\n'
    return between, columns


def _lines_with_faults(
    answers: Answers, labels: Mapping[str, Labels], without_answer: Callable[[Fault], bytes]
) -> Iterator[bytes]:
    between, columns = _layout(answers, labels)
    template = b"%b".join(each.replace(b"%", b"%%") for each in between)
    rows = zip(answers.echoes, *columns, strict=True)
    answered = (template % row for row in rows)
    for place in range(answers.count):
        fault = answers.faults.get(place)
        yield next(answered) if fault is None else without_answer(fault)


def json_rows(array: Array) -> tuple[bytes, Sequence[bytes], bytes]:
    """Return JSON text of each row of an array, and what belongs before and after each.

    Numbers have the fewest digits that read back as the same value of their own type.
    """
    count = len(array)
    if array.dtype == object and count and isinstance(array[0], np.ndarray):
        return b"", [_row_text(row) for row in array], b""  # of different shapes
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


def _row_text(row: Array) -> bytes:
    """Return JSON text of a row, with numbers as a whole batch of them has them."""
    text = row.dtype.kind in "OSU"
    return orjson.dumps(row.tolist() if text else row, option=orjson.OPT_SERIALIZE_NUMPY)


def _label_rows(labels: Labels, places: Array) -> tuple[bytes, Sequence[bytes], bytes]:
    rows = labels.json_rows(places)
    return _text_rows(labels.texts(places), lists=True) if rows is None else (b"[", rows, b"]")


def _text_rows(rows: Sequence[object], *, lists: bool) -> tuple[bytes, Sequence[bytes], bytes]:
    if lists and rows:
        inner = orjson.dumps(rows)[2:-2].split(b"],[")
        if len(inner) == len(rows):  # more would mean that some text holds the separator
            return b"[", inner, b"]"
    return b"", [orjson.dumps(row) for row in rows], b""
