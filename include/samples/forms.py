"""Sample documents for the DAG human_review: delivery notes, drawn, some of them badly scanned.

``python include/samples/forms.py OUTDIR`` writes ``note-*.png`` and ``truth.json``, what stands in
each. The texts are drawn, not photographed: blur, noise and slant stand in for a bad scan.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from model_delivery_engine.tensors import Array

SEED = 11
COUNT = 8
WIDTH, HEIGHT = 900, 640
LEFT, VALUE_LEFT, TOP, STEP = 60, 360, 150, 72
_NAMES = ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Katherine Johnson", "Edsger Dijkstra",
          "Barbara Liskov", "Tony Hoare", "Frances Allen")  # fmt: skip
_STREETS = ("14 Mill Lane", "7 Harbour Road", "221 Baker Street", "3 Quarry Hill", "58 Elm Avenue",
            "9 Station Row", "102 Kings Parade", "31 Orchard Close")  # fmt: skip


@dataclass(frozen=True)
class FormFacts:
    """What was written.

    :param folder: of the images
    :param truth: by file name: text by key
    """

    folder: Path
    truth: dict[str, dict[str, str]]


def write_forms(folder: Path, count: int = COUNT) -> FormFacts:
    """Draw the documents; each third one is a bad scan."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    truth: dict[str, dict[str, str]] = {}
    for number in range(count):
        name = f"note-{number:02}.png"
        fields = _fields(number, random)
        page = _drawn(fields)
        if number % 3 == 2:
            page = _badly_scanned(page, random)
        if not cv2.imwrite(str(folder / name), page):
            raise OSError(f"{folder / name} could not be written")
        truth[name] = fields
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    return FormFacts(folder, truth)


def _fields(number: int, random: Any) -> dict[str, str]:
    return {
        "Name": _NAMES[number % len(_NAMES)],
        "Mail address": _STREETS[number % len(_STREETS)],
        "Order": f"{random.integers(10_000, 99_999)}",
        "Date": f"2026-{random.integers(1, 13):02}-{random.integers(1, 29):02}",
        "Amount": f"{random.integers(10, 900)}.{random.integers(0, 100):02}",
    }


def _drawn(fields: dict[str, str]) -> Array:
    page = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    font, ink = cv2.FONT_HERSHEY_SIMPLEX, (20, 20, 20)
    cv2.putText(page, "Delivery note", (LEFT, 80), font, 1.5, ink, 3, cv2.LINE_AA)
    for row, (key, value) in enumerate(fields.items()):
        height = TOP + row * STEP
        cv2.putText(page, f"{key}:", (LEFT, height), font, 1.0, ink, 2, cv2.LINE_AA)
        cv2.putText(page, value, (VALUE_LEFT, height), font, 1.0, ink, 2, cv2.LINE_AA)
    return page


def _badly_scanned(page: Array, random: Any) -> Array:
    slant = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 0.8, 0.5)
    small: Array = cv2.warpAffine(page, slant, (WIDTH, HEIGHT), borderValue=(255, 255, 255))
    blurred = cv2.GaussianBlur(small, (0, 0), 1.1)
    noisy = blurred.astype(np.int16) + random.normal(0, 18, page.shape).astype(np.int16)
    scanned: Array = np.clip(noisy, 0, 255).astype(np.uint8)
    return scanned


def main() -> None:
    """Write the documents into the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Write the sample documents of human_review.")
    parser.add_argument("folder", type=Path, help="folder to write into; made where it is absent")
    facts = write_forms(parser.parse_args().folder)
    print(f"{len(facts.truth)} documents in {facts.folder}")


if __name__ == "__main__":
    main()
