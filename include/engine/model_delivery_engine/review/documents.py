"""Reads forms with an OCR model into blocks as Textract's AnalyzeDocument gives them.

The model is rapidocr's (PP-OCR, on ONNX Runtime). It finds lines of text; a line ``Key: value`` is
a pair, and so is a line that ends in a colon with the next to its right. Confidences are the
recogniser's, per line, in percent.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from model_delivery_engine.errors import ReviewError, one_line
from model_delivery_engine.review.image_size import declared_size

MAX_PIXELS = 50_000_000
_NAMESPACE = uuid.UUID("2f0d5b5e-6a0f-4f0e-9a37-0b1d7a0b7c11")


@dataclass(frozen=True)
class TextLine:
    """A line of text on a page.

    :param confidence: 0 to 100
    :param box: left, top, width, height as parts of the page
    """

    text: str
    confidence: float
    box: tuple[float, float, float, float]

    @property
    def right(self) -> float:
        """Where it ends."""
        return self.box[0] + self.box[2]

    @property
    def middle(self) -> float:
        """Its height's middle."""
        return self.box[1] + self.box[3] / 2


class DocumentReader:
    """Reads images of forms; the models are loaded at the first one."""

    @cached_property
    def _model(self) -> Any:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise ReviewError(
                "reading documents needs the package rapidocr: install "
                "model-delivery-engine[documents]"
            ) from error
        return RapidOCR(params={"Global.log_level": "error"})

    def read(self, image: bytes) -> dict[str, Any]:
        """Return ``{"Blocks": […]}`` of an image (PNG or JPEG).

        :raises ReviewError: what is neither, or declares more than 50 million pixels
        """
        pixels = _pixels(image)
        return response(_lines(self._model(pixels), pixels.shape[1], pixels.shape[0]))


def response(lines: Sequence[TextLine]) -> dict[str, Any]:
    """Return lines of text as an answer of AnalyzeDocument, with the pairs among them."""
    blocks: list[dict[str, Any]] = [_block("PAGE", 100.0, (0.0, 0.0, 1.0, 1.0), "page")]
    for number, (key, value) in enumerate(_pairs(lines)):
        blocks += _pair_blocks(number, key, value)
    return {"DocumentMetadata": {"Pages": 1}, "Blocks": blocks}


def _pixels(image: bytes) -> Any:
    import cv2

    width, height = declared_size(image)
    if width * height > MAX_PIXELS:
        raise ReviewError(f"the image has {width} by {height} pixels; {MAX_PIXELS} are read")
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ReviewError(f"this is no image: {one_line(error)}") from error
    if pixels is None:
        raise ReviewError("this is no image that can be read: give PNG or JPEG")
    return pixels


def _lines(found: Any, width: int, height: int) -> list[TextLine]:
    if getattr(found, "boxes", None) is None or found.txts is None:
        return []
    lines = []
    for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
        points = np.asarray(corners, dtype=float) / (width, height)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        box = (float(left), float(top), float(right - left), float(bottom - top))
        lines.append(TextLine(text.strip(), 100.0 * float(score), box))
    return sorted(lines, key=lambda line: (round(line.middle, 2), line.box[0]))


def _pairs(lines: Sequence[TextLine]) -> Iterator[tuple[TextLine, TextLine | None]]:
    taken: set[int] = set()
    for number, line in enumerate(lines):
        if number in taken:
            continue
        key, colon, value = line.text.partition(":")
        if not colon:
            continue
        if value.strip():
            yield _split(line, key.strip(), value.strip())
        else:
            following = _to_the_right(line, lines, taken)
            if following is not None:
                taken.add(following)
            yield _named(line, key.strip()), None if following is None else lines[following]


def _to_the_right(key: TextLine, lines: Sequence[TextLine], taken: set[int]) -> int | None:
    beside = [
        (other.box[0], number)
        for number, other in enumerate(lines)
        if number not in taken and other.box[0] >= key.right
        and abs(other.middle - key.middle) < key.box[3] / 2
    ]  # fmt: skip
    return min(beside)[1] if beside else None


def _split(line: TextLine, key: str, value: str) -> tuple[TextLine, TextLine]:
    """Cut a line's box where its characters say that the colon is."""
    left, top, width, height = line.box
    share = line.text.index(":") / len(line.text)
    first = (left, top, width * share, height)
    second = (left + width * share, top, width * (1 - share), height)
    return TextLine(key, line.confidence, first), TextLine(value, line.confidence, second)


def _named(line: TextLine, text: str) -> TextLine:
    return TextLine(text, line.confidence, line.box)


def _pair_blocks(number: int, key: TextLine, value: TextLine | None) -> Iterator[dict[str, Any]]:
    words = {"key": _words(number, "key", key), "value": _words(number, "value", value)}
    confidence = min(each.confidence for each in (key, value) if each is not None)
    ids = {side: [word["Id"] for word in found] for side, found in words.items()}
    value_box = value.box if value is not None else (key.right, key.box[1], 0.0, key.box[3])
    key_block = _block("KEY_VALUE_SET", confidence, key.box, f"{number}/key")
    value_block = _block("KEY_VALUE_SET", confidence, value_box, f"{number}/value")
    yield {
        **key_block,
        "EntityTypes": ["KEY"],
        "Relationships": [
            {"Type": "VALUE", "Ids": [value_block["Id"]]},
            {"Type": "CHILD", "Ids": ids["key"]},
        ],
    }
    yield {
        **value_block,
        "EntityTypes": ["VALUE"],
        "Relationships": [{"Type": "CHILD", "Ids": ids["value"]}],
    }
    yield from words["key"]
    yield from words["value"]


def _words(number: int, side: str, line: TextLine | None) -> list[dict[str, Any]]:
    if line is None:
        return []
    return [
        {**_block("WORD", line.confidence, line.box, f"{number}/{side}/{place}"), "Text": word}
        for place, word in enumerate(line.text.split())
    ]


def _block(
    kind: str, confidence: float, box: tuple[float, float, float, float], name: str
) -> dict[str, Any]:
    # The same page has the same ids: an input's digest must not change from try to try.
    left, top, width, height = (round(side, 6) for side in box)
    bounds: Mapping[str, float] = {"Left": left, "Top": top, "Width": width, "Height": height}
    return {
        "Id": str(uuid.uuid5(_NAMESPACE, name)),
        "BlockType": kind,
        "Confidence": round(confidence, 4),
        "Page": 1,
        "Geometry": {"BoundingBox": dict(bounds)},
    }
