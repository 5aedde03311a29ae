"""The part of a service's response that the conditions are about: what reviewers are asked of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model_delivery_engine.review.checks import SAMPLING, matching_pairs
from model_delivery_engine.review.conditions import Complex, Conditions, Evaluation, Simple
from model_delivery_engine.review.forms import Form
from model_delivery_engine.review.inferences import Moderation, member

_FORM_KEY = "ImportantFormKeyConfidenceCheck"
_ALL_TOLD = frozenset({"PAGE"})


def selected_response(
    conditions: Conditions,
    evaluation: Evaluation,
    inference: Any,
    response: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``selectedAiServiceResponse``; all of it where sampling picked the item.

    A form whose key is missing comes without pairs: reviewers add it, or say that it is not there.
    """
    true = list(_true_checks(conditions.members, iter(evaluation.results)))
    if any(check.condition_type == SAMPLING for check in true):
        return dict(response)
    if isinstance(inference, Form):
        wanted: set[str] = set()
        for check in true:
            if check.condition_type == _FORM_KEY:
                for pair in matching_pairs(check.parameters, "")(inference):
                    wanted |= pair.block_ids
        return _replaced(response, "blocks", lambda block: _kept(block, wanted))
    if isinstance(inference, Moderation):
        one = [check.check for check in true]
        return _replaced(
            response,
            "moderationLabels",
            lambda label: any(check(_only(inference, label)) for check in one),
        )
    return dict(response)


def _true_checks(members: Sequence[Simple | Complex], results: Iterator[bool]) -> Iterator[Simple]:
    """Yield the checks that were true, below nodes that were."""
    for node in members:
        result = next(results)
        if isinstance(node, Complex):
            below = list(_true_checks(node.members, results))
            if result:
                yield from below
        elif result:
            yield node


def _kept(block: Mapping[str, Any], wanted: set[str]) -> bool:
    return member(block, "blockType") in _ALL_TOLD or str(member(block, "id")) in wanted


def _only(inference: Moderation, label: Mapping[str, Any]) -> Moderation:
    name = member(label, "name")
    return Moderation(inference.identity, [each for each in inference.labels if each.name == name])


def _replaced(response: Mapping[str, Any], name: str, keep: Any) -> dict[str, Any]:
    spelt = name if name in response else name[0].upper() + name[1:]
    return {**response, spelt: [each for each in response[spelt] if keep(each)]}


def in_loops(response: Any) -> Any:
    """Return a response with its members spelt as in a human loop's content: ``blocks``, ``id``.

    Templates of Augmented AI read them so; the API itself writes ``Blocks`` and ``Id``.
    """
    if isinstance(response, Mapping):
        return {name[:1].lower() + name[1:]: in_loops(each) for name, each in response.items()}
    return [in_loops(each) for each in response] if isinstance(response, list) else response
