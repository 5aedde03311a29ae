"""What a model said of one input, in the form that conditions look at.

Confidences are 0 to 100, as Augmented AI counts them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from model_delivery_engine.errors import ReviewError

_SUM_TOLERANCE = 0.01


class Source(StrEnum):
    """Where inferences come from; each has its own types of conditions.

    The first two are Augmented AI's AwsManagedHumanLoopRequestSource. Augmented AI evaluates no
    conditions for other models: those over a classifier's scores are this project's own.
    """

    REKOGNITION = "AWS/Rekognition/DetectModerationLabels/Image/V3"
    TEXTRACT = "AWS/Textract/AnalyzeDocument/Forms/V1"
    CLASSIFIER = "classifier"


@dataclass(frozen=True, slots=True)
class ModerationLabel:
    """One label that Rekognition found."""

    name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Moderation:
    """The labels of one image.

    :param identity: what tells this input from others; sampling goes by it
    """

    identity: bytes
    labels: Sequence[ModerationLabel]


@dataclass(frozen=True, slots=True)
class Classification:
    """A classifier's scores for one input.

    :param scores: one for each class, 0 to 1
    :param label: the class that it answers
    """

    identity: bytes
    scores: Sequence[float]
    label: str

    @property
    def confidence(self) -> float:
        """The best score, in percent."""
        return 100.0 * max(self.scores)

    @property
    def margin(self) -> float:
        """How far the best score is ahead of the next, in percent."""
        *_, second, first = sorted(self.scores)
        return 100.0 * (first - second)

    @property
    def entropy(self) -> float:
        """Shannon's entropy of the scores in percent of the most there can be: 100 is a guess.

        :raises ReviewError: scores that are no distribution
        """
        if abs(math.fsum(self.scores) - 1.0) > _SUM_TOLERANCE:
            raise ReviewError(
                f"the scores of {self.identity.decode(errors='replace')} sum to "
                f"{math.fsum(self.scores):.4g}, not to 1: an EntropyCheck needs a distribution; "
                "name the output of a softmax, or use a MarginCheck"
            )
        bits = -sum(score * math.log(score) for score in self.scores if score > 0.0)
        return 100.0 * bits / math.log(len(self.scores))


def moderation(identity: bytes, response: Mapping[str, Any]) -> Moderation:
    """Read an answer of DetectModerationLabels, with names as the API or as a loop has them.

    :raises ReviewError: an answer without labels in either spelling
    """
    labels = member(response, "moderationLabels")
    if labels is None:
        raise ReviewError("this is no answer of DetectModerationLabels: it has no ModerationLabels")
    return Moderation(
        identity,
        [
            ModerationLabel(str(member(each, "name")), float(member(each, "confidence")))
            for each in labels
        ],
    )


def classification(
    identity: bytes, scores: Any, labels: Sequence[str] | None = None
) -> Classification:
    """Read a classifier's scores.

    :param scores: a number for each class; a single one is the second of two classes'
    :param labels: names of the classes (default: their places, counted from 0)
    :raises ReviewError: what is no list of numbers from 0 to 1
    """
    while isinstance(scores, list) and len(scores) == 1:
        scores = scores[0]
    if isinstance(scores, float):
        scores = [1.0 - scores, scores]
    try:
        fits = len(scores) > 1 and min(scores) >= 0.0 and max(scores) <= 1.0
        best = scores.index(max(scores))
    except (TypeError, AttributeError, ValueError):
        fits = False
    if not fits or any(score != score for score in scores):
        raise ReviewError(
            f"the scores of {identity.decode(errors='replace')} are {str(scores)[:100]}: "
            "conditions need one number from 0 to 1 for each class; name the output of a softmax "
            "or a sigmoid"
        )
    if labels is None:
        return Classification(identity, scores, str(best))
    if len(labels) != len(scores):
        raise ReviewError(f"there are {len(labels)} labels for {len(scores)} scores")
    return Classification(identity, scores, labels[best])


def member(mapping: Mapping[str, Any], name: str) -> Any:
    """Return a member spelt as in a loop's content (``blocks``) or as in the API (``Blocks``)."""
    value = mapping.get(name)
    return mapping.get(name[0].upper() + name[1:]) if value is None else value
