"""How many results a core evaluates activation conditions over, beside only reading the lines."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from model_delivery_engine.review.conditions import parse_conditions
from model_delivery_engine.review.inferences import Source
from model_delivery_engine.review.selection import ResultsLayout, Selection

from benchmarks.record import Measure, median_and_spread, write

ITEMS = 50_000
CLASSES = 10
ROUNDS = 7
GOAL = 50_000
CONDITIONS = {
    "Conditions": [
        {"ConditionType": "ConfidenceCheck", "ConditionParameters": {"ConfidenceLessThan": 60}},
        {"ConditionType": "MarginCheck", "ConditionParameters": {"MarginLessThan": 10}},
        {"ConditionType": "EntropyCheck", "ConditionParameters": {"EntropyGreaterThan": 80}},
        {"ConditionType": "Sampling", "ConditionParameters": {"RandomSamplingPercentage": 1}},
    ]
}


def _lines() -> list[bytes]:
    """Return results of a classifier that is sure of most of them."""
    source = random.Random(7)
    lines = []
    for number in range(ITEMS):
        scores = [source.random() ** 3 for _ in range(CLASSES)]
        scores[number % CLASSES] += source.choice([2.0, 8.0, 20.0])
        total = sum(scores)
        record = {
            "input": {"id": number, "label": number % CLASSES},
            "output": {"probabilities": [score / total for score in scores]},
            "error": None,
        }
        lines.append(orjson.dumps(record))
    return lines


def _rate(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return ITEMS / (time.process_time() - started)


def main() -> Path:
    """Measure both in turns, in one process with one thread."""
    lines = _lines()
    layout = ResultsLayout(score_output="probabilities")

    def ours() -> object:
        selection = Selection(layout, parse_conditions(CONDITIONS, Source.CLASSIFIER))
        return sum(1 for _ in selection.items(map(orjson.loads, lines)))

    def limit() -> object:
        return sum(1 for _ in map(orjson.loads, lines))

    ours(), limit()
    pairs = [(_rate(ours), _rate(limit)) for _ in range(ROUNDS)]
    figure, spread = median_and_spread([pair[0] for pair in pairs])
    measure = Measure(
        what=f"items of {CLASSES} scores a second, four conditions, reading the lines included",
        unit="items/s", better="higher", ours=figure, peer=None, peer_name=None,
        limit=median_and_spread([pair[1] for pair in pairs])[0],
        limit_name="reading the lines alone", goal=f">= {GOAL} items/s per core", rounds=ROUNDS,
        spread=spread, note="no peer: Augmented AI evaluates none for other models",
        passed=figure >= GOAL,
    )  # fmt: skip
    return write("review_conditions", [measure], ["orjson"])
