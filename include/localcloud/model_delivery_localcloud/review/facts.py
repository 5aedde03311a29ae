"""What localcloud reads from a human loop's InputContent, whatever else it holds.

Custom task types: `initialValue` is the model's answer, `confidence` its confidence (0 to 1, or
0 to 100), `knownAnswer` the right answer of a honeypot, which no reviewer is sent. Built-in task
types bring the AI service's own response, whose least confident part decides the order. In any,
`excludedWorkers` are the ids of workers who are not to answer, which no reviewer is sent either.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.review.answers import EXCLUDED_WORKERS
from model_delivery_engine.review.labels import label_of

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.review.json_text import indented

KNOWN_ANSWER = "knownAnswer"
MODEL_ANSWER = "initialValue"
CONFIDENCE = "confidence"
_HIDDEN = frozenset({KNOWN_ANSWER, EXCLUDED_WORKERS})
# Where nothing is known of the model's confidence, items come in the order they were started.
UNKNOWN_PRIORITY = 1.0
LONGEST_LABEL = 256


@dataclass(frozen=True)
class Facts:
    """`confidence` from 0 to 1, labels as text; None where the input says nothing of it."""

    confidence: float | None
    model_label: str | None
    known_answer: str | None
    excluded: frozenset[str] = frozenset()

    @property
    def priority(self) -> float:
        """The place in the queue, least certain first."""
        return UNKNOWN_PRIORITY if self.confidence is None else self.confidence


def read_content(text: str) -> Any:
    """Parse InputContent; raises ValueError where it is not JSON."""
    return strict_json.loads(text)


def facts_of(content: Any) -> Facts:
    """Read the facts of a parsed InputContent; raises ValueError for what is none."""
    if not isinstance(content, Mapping):
        return Facts(None, None, None)
    confidence = _fraction(content.get(CONFIDENCE))
    if confidence is None:
        confidence = min(_service_confidences(content), default=None)
    excluded = content.get(EXCLUDED_WORKERS, [])
    if not isinstance(excluded, list) or not all(isinstance(each, str) for each in excluded):
        raise ValueError(f"{EXCLUDED_WORKERS} must be a list of worker ids")
    return Facts(
        confidence,
        as_label(content.get(MODEL_ANSWER)),
        as_label(content.get(KNOWN_ANSWER)),
        frozenset(excluded),
    )


def for_reviewers(content: Any) -> Any:
    """Return the input as reviewers may see it."""
    if isinstance(content, Mapping) and not _HIDDEN.isdisjoint(content):
        return {key: value for key, value in content.items() if key not in _HIDDEN}
    return content


def text_for_reviewers(text: str) -> str:
    """Return InputContent as reviewers may read it; raises ValueError where it is not JSON."""
    return indented(text, without=_HIDDEN)


def as_label(value: Any) -> str | None:
    """Return an answer's label as it is stored; the operators consolidate the same label."""
    label = label_of(value)
    # Postgres stores no null character.
    return None if label is None else label.replace("\0", "\ufffd")[:LONGEST_LABEL]


def digest_of(*parts: Any) -> str:
    """Return a digest that is the same for the same JSON values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _service_confidences(content: Mapping[str, Any]) -> Iterator[float]:
    for name in ("selectedAiServiceResponse", "aiServiceResponse"):
        response = content.get(name)
        if isinstance(response, Mapping):
            for part in ("blocks", "Blocks", "moderationLabels", "ModerationLabels"):
                yield from _confidences(response.get(part))
            return


def _confidences(blocks: Any) -> Iterator[float]:
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, Mapping):
            # Of AI services it is a percentage, below 1 too.
            found = _percentage(block.get("confidence", block.get("Confidence")))
            if found is not None:
                yield found / 100


def _fraction(value: Any) -> float | None:
    percent = _percentage(value)
    return percent / 100 if percent is not None and percent > 1 else percent


def _percentage(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Clamped first: a whole number may be too large for a float.
    return float(min(max(value, 0), 100))
