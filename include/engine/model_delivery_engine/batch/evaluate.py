"""Accuracy of answers against the labels that their records carry."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.errors import BatchError

_Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class Evaluation:
    """How many answers are right.

    :param n: records that were answered
    :param correct: None where no random sample tells of what nobody reviewed
    :param accuracy: correct / n; None as ``correct`` is
    :param interval_low: lower end of the Wilson 95 % interval of the accuracy
    :param interval_high: upper end
    :param errors: records without an answer; they count neither as right nor as wrong
    :param confusion: label to answer to count
    """

    n: int
    correct: int | None
    accuracy: float | None
    interval_low: float
    interval_high: float
    errors: int
    confusion: dict[str, dict[str, int]]


def evaluate(
    records: Iterable[Mapping[str, Any]],
    *,
    output: str,
    label_field: str,
    labels: Sequence[str] | None = None,
) -> Evaluation:
    """Compare answers with labels.

    :param records: lines of results, parsed: ``input``, ``output``, ``error``
    :param output: the model's output to judge; of a list of scores the largest one's place is the
        answer
    :param label_field: the field of ``input`` with the label
    :param labels: names of the classes, one for each score: answers and labels are then compared as
        these texts (default: classes are their places, counted from 0)
    :raises BatchError: no record was answered; an answer without that output, a record without the
        label, a label that cannot be an answer; names the record
    """
    confusion: dict[str, dict[str, int]] = {}
    n = correct = errors = 0
    for record in records:
        if record["output"] is None:
            errors += 1
            continue
        label = _label(record, label_field, labels)
        answer = _answer(record, output, labels)
        if isinstance(label, str) != isinstance(answer, str):
            raise BatchError(
                f"record {record['input'].get('id', record['input'])!r} has label {label!r}, and "
                f"the model answers {answer!r}: labels must be of the answer's kind; of a list of "
                "scores the answer is a class's place, counted from 0, unless you name the classes "
                "in labels"
            )
        n += 1
        correct += label == answer
        row = confusion.setdefault(str(label), {})
        row[str(answer)] = row.get(str(answer), 0) + 1
    if not n:
        raise BatchError(
            f"no record was answered ({errors} errors), so there is no accuracy; read errors.jsonl"
        )
    low, high = wilson_interval(correct, n)
    return Evaluation(n, correct, correct / n, low, high, errors, confusion)


def evaluation_of_review(
    records: Iterable[Mapping[str, Any]], review: Mapping[str, Any]
) -> Evaluation:
    """Return what reviewers found of the model as an evaluation; its interval is the review's.

    :param records: the reviewed lines; only those without an answer are counted here
    :param review: figures of the review: ``results``, ``model_accuracy`` and its interval
    :raises BatchError: no record was answered
    """
    errors = sum(record["output"] is None for record in records)
    n = int(review["results"])
    if not n:
        raise BatchError(f"no record was answered ({errors} errors), so there is no accuracy")
    accuracy = review["model_accuracy"]
    correct = None if accuracy is None else round(accuracy * n)
    low, high = review["model_accuracy_interval"]
    return Evaluation(n, correct, accuracy, low, high, errors, {})


def _label(record: Mapping[str, Any], field: str, labels: Sequence[str] | None) -> Any:
    decided = (record.get("review") or {}).get("label")
    if isinstance(decided, str):
        return _as_answered(decided) if labels is None else decided
    fields = record["input"]
    if field not in fields:
        raise BatchError(
            f"record {fields.get('id', fields)!r} has no label field {field!r}; "
            "add labels to the input or name their field"
        )
    label = fields[field]
    if labels is None or str(label) not in labels:
        return label
    return str(label)


def _as_answered(label: str) -> Any:
    """Return a reviewer's label as labels are spelt: a class's place is a number."""
    return int(label) if label.isascii() and label.isdigit() else label


def _answer(record: Mapping[str, Any], output: str, labels: Sequence[str] | None) -> Any:
    outputs = record["output"]
    if output not in outputs:
        raise BatchError(
            f"the model has no output {output!r}; its outputs are {', '.join(sorted(outputs))}"
        )
    value = outputs[output]
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, list):
        return value if labels is None else str(value)
    if not value or isinstance(value[0], list):
        raise BatchError(
            f"output {output!r} is neither one value nor one list of scores a record; "
            "name an output that is"
        )
    best = max(range(len(value)), key=value.__getitem__)
    if labels is None:
        return best
    if len(labels) != len(value):
        raise BatchError(
            f"there are {len(labels)} labels, and output {output!r} has {len(value)} scores: name "
            "each class once, in the order of the scores"
        )
    return labels[best]


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion (Wilson 1927), for n of at least 1."""
    share = correct / n
    scale = 1 + _Z95**2 / n
    centre = (share + _Z95**2 / (2 * n)) / scale
    half = _Z95 * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)
