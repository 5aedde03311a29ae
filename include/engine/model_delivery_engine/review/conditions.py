"""Human loop activation conditions: the grammar and its evaluation.

Source: Amazon Augmented AI developer guide, "JSON Schema for Human Loop Activation Conditions".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.errors import ConditionsError
from model_delivery_engine.review.checks import SAMPLING, TYPES, Check
from model_delivery_engine.review.inferences import Source

LARGEST = 10_240
_DEEPEST = 2
_OPERATORS = ("And", "Or")


@dataclass(frozen=True, slots=True)
class Simple:
    """One check."""

    condition_type: str
    parameters: Mapping[str, Any]
    check: Check

    def evaluate(self, inference: Any, results: list[bool]) -> bool:
        """Evaluate, and note the result."""
        result = self.check(inference)
        results.append(result)
        return result

    def record(self, results: Iterator[bool]) -> dict[str, Any]:
        """Return the node as Augmented AI records it."""
        return {
            "ConditionType": self.condition_type,
            "ConditionParameters": dict(self.parameters),
            "EvaluationResult": next(results),
        }


@dataclass(frozen=True, slots=True)
class Complex:
    """Several conditions under And or Or."""

    operator: str
    members: Sequence["Simple | Complex"]

    def evaluate(self, inference: Any, results: list[bool]) -> bool:
        """Evaluate every member: the record shows them all."""
        place = len(results)
        results.append(False)
        found = [member.evaluate(inference, results) for member in self.members]
        results[place] = all(found) if self.operator == "And" else any(found)
        return results[place]

    def record(self, results: Iterator[bool]) -> dict[str, Any]:
        """Return the node as Augmented AI records it."""
        result = next(results)
        members = [member.record(results) for member in self.members]
        return {self.operator: members, "EvaluationResult": result}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of one inference.

    :param activated: whether it is to be reviewed
    :param sampled_only: whether only random sampling says so: such inferences are a random sample
        of all that no other condition picks
    :param results: of each node, in the order in which they are written
    """

    activated: bool
    sampled_only: bool
    results: tuple[bool, ...]


@dataclass(frozen=True)
class Conditions:
    """Conditions that have been read; evaluating changes nothing in them."""

    members: Sequence[Simple | Complex]

    def evaluate(self, inference: Any) -> Evaluation:
        """Evaluate every condition; any true one at the top asks for a review."""
        results: list[bool] = []
        sampled = picked = False
        for member in self.members:
            if member.evaluate(inference, results):
                if isinstance(member, Simple) and member.condition_type == SAMPLING:
                    sampled = True
                else:
                    picked = True
        return Evaluation(sampled or picked, sampled and not picked, tuple(results))

    def record(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return ``humanTaskActivationConditionResults``: an EvaluationResult at each node."""
        results = iter(evaluation.results)
        return {"Conditions": [member.record(results) for member in self.members]}

    @property
    def samples(self) -> bool:
        """Whether a random sample of everything is reviewed."""
        return any(
            isinstance(each, Simple) and each.condition_type == SAMPLING for each in self.members
        )


def parse_conditions(given: str | Mapping[str, Any], source: Source) -> Conditions:
    """Read HumanLoopActivationConditions.

    :param given: JSON text of at most 10,240 characters, or what it stands for
    :param source: of the inferences, which decides on the types there may be
    :raises ConditionsError: names the node and the rule
    """
    text = given if isinstance(given, str) else json.dumps(given)
    if len(text) > LARGEST:
        raise ConditionsError(f"the conditions have {len(text)} characters, {LARGEST} are allowed")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConditionsError(f"the conditions are no JSON: {error}") from error
    except RecursionError as error:
        raise ConditionsError(
            "the conditions are nested too deeply: And and Or may be twice"
        ) from error
    if not isinstance(document, dict) or set(document) != {"Conditions"}:
        raise ConditionsError('the conditions must be one object: {"Conditions": [...]}')
    members = document["Conditions"]
    if not isinstance(members, list) or not members:
        raise ConditionsError("Conditions must be a list of at least one condition")
    return Conditions(_Reader(source).members(members, "Conditions", 0))


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._samplings = 0

    def members(self, given: list[Any], path: str, depth: int) -> list[Simple | Complex]:
        return [self._node(each, f"{path}[{n}]", depth) for n, each in enumerate(given)]

    def _node(self, given: Any, path: str, depth: int) -> Simple | Complex:
        if not isinstance(given, dict):
            raise ConditionsError(f"{path} is {given!r}: give an object")
        for operator in _OPERATORS:
            if operator in given:
                return self._complex(given, operator, path, depth)
        return self._simple(given, path)

    def _complex(self, given: dict[str, Any], operator: str, path: str, depth: int) -> Complex:
        if set(given) != {operator}:
            raise ConditionsError(f"{path} must have nothing beside {operator}")
        if depth == _DEEPEST:
            raise ConditionsError(f"{path}: And and Or may be nested at most twice")
        members = given[operator]
        if not isinstance(members, list) or len(members) < 2:
            raise ConditionsError(f"{path}.{operator} needs a list of at least two conditions")
        return Complex(operator, self.members(members, f"{path}.{operator}", depth + 1))

    def _simple(self, given: dict[str, Any], path: str) -> Simple:
        if unknown := sorted(set(given) - {"ConditionType", "ConditionParameters"}):
            raise ConditionsError(
                f"{path}.{unknown[0]} is unknown: give ConditionType and ConditionParameters, "
                "And, or Or"
            )
        name = given.get("ConditionType")
        usable = [each for each, kind in TYPES.items() if self._source in kind.sources]
        if name not in usable:
            raise ConditionsError(
                f"{path}.ConditionType is {name!r}: over {self._source} there are "
                f"{', '.join(usable)}"
            )
        parameters = given.get("ConditionParameters", {})
        path = f"{path}.ConditionParameters"
        check = TYPES[name].check(parameters, path, self._samplings)
        self._samplings += name == SAMPLING
        return Simple(name, parameters, check)
