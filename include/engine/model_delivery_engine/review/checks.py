"""The types of conditions: which parameters each takes, and what it looks at.

Source: Amazon Augmented AI developer guide, "Use Human Loop Activation Conditions JSON Schema with
Amazon Rekognition" and "… with Amazon Textract"; the last three types are this project's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.errors import ConditionsError
from model_delivery_engine.review.comparators import (
    Test,
    comparator_names,
    comparison,
    percentage,
)
from model_delivery_engine.review.forms import Form, FormPair, plain
from model_delivery_engine.review.inferences import Classification, Moderation, Source
from model_delivery_engine.review.sampling import sampler

ANY = "*"
SAMPLING = "Sampling"
_LEAST_SAMPLE = 0.01

Parameters = Mapping[str, Any]
Check = Callable[[Any], bool]


@dataclass(frozen=True)
class ConditionType:
    """One type of condition.

    :param sources: of the inferences that it can look at
    :param required: parameters that must be given
    :param optional: parameters that may be
    :param prefixes: of comparators, of which at least one must be given
    :param build: makes the check out of its parameters, its path and the samplings before it
    """

    sources: frozenset[Source]
    required: frozenset[str]
    optional: frozenset[str]
    prefixes: tuple[str, ...]
    build: Callable[[Parameters, str, int], Check]

    def check(self, parameters: Any, path: str, samplings: int) -> Check:
        """Return the check, with its parameters held against the type.

        :raises ConditionsError: names the parameter and the rule
        """
        if not isinstance(parameters, Mapping):
            raise ConditionsError(f"{path} is {parameters!r}: give an object of parameters")
        comparators = [name for prefix in self.prefixes for name in comparator_names(prefix)]
        known = [*sorted(self.required | self.optional), *comparators]
        for name in parameters:
            if name not in known:
                raise ConditionsError(f"{path}.{name} is unknown; there are {', '.join(known)}")
        for name in sorted(self.required.difference(parameters)):
            raise ConditionsError(f"{path}.{name} is missing")
        if comparators and not any(name in parameters for name in comparators):
            raise ConditionsError(f"{path} compares nothing: give one of {', '.join(comparators)}")
        return self.build(parameters, path, samplings)


def _moderation_label(parameters: Parameters, path: str, samplings: int) -> Check:
    name = _text(parameters, "ModerationLabelName", path)
    holds = _comparison("Confidence", parameters, path)

    def check(inference: Moderation) -> bool:
        return any(
            holds(label.confidence) for label in inference.labels if name in (ANY, label.name)
        )

    return check


def _form_key_confidence(parameters: Parameters, path: str, samplings: int) -> Check:
    matching = matching_pairs(parameters, path)
    return lambda inference: bool(matching(inference))


def matching_pairs(parameters: Parameters, path: str) -> Callable[[Form], list[FormPair]]:
    """Return what finds the pairs that an ImportantFormKeyConfidenceCheck is about.

    A pair fits when its own confidence and that of each of its words do.
    """
    keys = _keys(parameters, path)
    pair_fits = comparison("KeyValueBlockConfidence", parameters, path)
    word_fits = comparison("WordBlockConfidence", parameters, path)

    def fits(pair: FormPair) -> bool:
        if pair_fits is not None and not pair_fits(pair.confidence):
            return False
        return word_fits is None or all(map(word_fits, pair.word_confidences))

    return lambda form: [pair for pair in _pairs(form, keys) if fits(pair)]


def _missing_form_key(parameters: Parameters, path: str, samplings: int) -> Check:
    keys = _keys(parameters, path)
    return lambda form: not _pairs(form, keys)


def _sampling(parameters: Parameters, path: str, samplings: int) -> Check:
    share = percentage(
        parameters["RandomSamplingPercentage"], f"{path}.RandomSamplingPercentage", _LEAST_SAMPLE
    )
    sampled = sampler(share, samplings)
    return lambda inference: sampled(inference.identity)


def _score(prefix: str, measure: str) -> Callable[[Parameters, str, int], Check]:
    def build(parameters: Parameters, path: str, samplings: int) -> Check:
        label = _text(parameters, "Label", path) if "Label" in parameters else ANY
        holds = _comparison(prefix, parameters, path)

        def check(inference: Classification) -> bool:
            if label not in (ANY, inference.label):
                return False
            return holds(getattr(inference, measure))

        return check

    return build


def _comparison(prefix: str, parameters: Parameters, path: str) -> Test:
    holds = comparison(prefix, parameters, path)
    assert holds is not None  # `ConditionType.check` asked for one
    return holds


def _text(parameters: Parameters, name: str, path: str) -> str:
    value = parameters[name]
    if not isinstance(value, str) or not value.strip():
        raise ConditionsError(f"{path}.{name} is {value!r}: give a text")
    return value


def _keys(parameters: Parameters, path: str) -> frozenset[str] | None:
    """Return the key and its aliases; None for any key."""
    key = _text(parameters, "ImportantFormKey", path)
    aliases = parameters.get("ImportantFormKeyAliases", [])
    if not isinstance(aliases, list) or not all(isinstance(each, str) for each in aliases):
        raise ConditionsError(
            f"{path}.ImportantFormKeyAliases is {aliases!r}: give a list of texts"
        )
    return None if key == ANY else frozenset(map(plain, [key, *aliases]))


def _pairs(form: Form, keys: frozenset[str] | None) -> Sequence[FormPair]:
    if keys is None:
        return form.pairs
    return [pair for key in keys for pair in form.by_key.get(key, ())]


def _own(prefix: str, measure: str) -> ConditionType:
    return ConditionType(
        frozenset({Source.CLASSIFIER}), frozenset(), frozenset({"Label"}), (prefix,),
        _score(prefix, measure),
    )  # fmt: skip


_FORM_KEY = frozenset({"ImportantFormKey"})
_ALIASES = frozenset({"ImportantFormKeyAliases"})

TYPES: Mapping[str, ConditionType] = {
    "ModerationLabelConfidenceCheck": ConditionType(
        frozenset({Source.REKOGNITION}), frozenset({"ModerationLabelName"}), frozenset(),
        ("Confidence",), _moderation_label,
    ),
    "ImportantFormKeyConfidenceCheck": ConditionType(
        frozenset({Source.TEXTRACT}), _FORM_KEY, _ALIASES,
        ("KeyValueBlockConfidence", "WordBlockConfidence"), _form_key_confidence,
    ),
    "MissingImportantFormKey": ConditionType(
        frozenset({Source.TEXTRACT}), _FORM_KEY, _ALIASES, (), _missing_form_key,
    ),
    SAMPLING: ConditionType(
        frozenset(Source), frozenset({"RandomSamplingPercentage"}), frozenset(), (), _sampling,
    ),
    "ConfidenceCheck": _own("Confidence", "confidence"),
    "MarginCheck": _own("Margin", "margin"),
    "EntropyCheck": _own("Entropy", "entropy"),
}  # fmt: skip
