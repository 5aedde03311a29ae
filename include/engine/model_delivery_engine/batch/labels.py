"""An output that names texts by their places in a list: how a row of them stands in JSON.

Each text's JSON is written once, into a cell of fixed width. A batch's rows are then one gather of
cells and one pass that drops their padding, instead of an object for each text of each record.
"""

from collections.abc import Sequence

import numpy as np
import orjson

from model_delivery_engine.tensors import Array

_WIDEST_CELL = 16  # bytes; beyond that, dropping the padding takes longer than writing the texts
_PADDING = b"\0"  # JSON text has no such byte, nor a line feed: both are escaped
_ROW_END = b"\n"


class Labels:
    """The texts.

    :param texts: at least one
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = np.array([*texts, None], dtype=object)[:-1]
        coded = [orjson.dumps(text) for text in texts]
        width = max(map(len, coded)) + 1
        self._narrow = width <= _WIDEST_CELL
        if self._narrow:
            width = 8 if width <= 8 else _WIDEST_CELL
            self._cells = _cells(coded, b",", width)
            self._last_cells = _cells(coded, _ROW_END, width)

    def json_rows(self, places: Array) -> Sequence[bytes] | None:
        """Return JSON text of each row without its brackets; None where texts are better written.

        :param places: [rows, places], or an object array of lists where rows differ in length
        """
        if not self._narrow or places.dtype == object or not places.size:
            return None
        cells = self._cells.take(places)
        cells[:, -1] = self._last_cells.take(places[:, -1])
        rows = cells.tobytes().translate(None, _PADDING).split(_ROW_END)
        rows.pop()
        return rows

    def texts(self, places: Array) -> list[list[str]]:
        """Return the texts of each row."""
        if places.dtype == object:  # rows of different lengths
            return [self._texts[row].tolist() for row in places]
        rows: list[list[str]] = self._texts[places].tolist()
        return rows


def _cells(coded: Sequence[bytes], end: bytes, width: int) -> Array:
    padded = [(text + end).ljust(width, _PADDING) for text in coded]
    return np.frombuffer(b"".join(padded), np.dtype(f"V{width}"))
