"""A batch of human loops as XCom, triggers and the state store hold it: small, however many."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_delivery.exceptions import InvalidRequestError
from model_delivery.jobs.naming import HASH_LENGTH, job_name

# With the hash, two hyphens and eight digits of a number: the 63 that a loop's name may have.
_READABLE = 43
_NUMBER_DIGITS = 8


@dataclass(frozen=True)
class LoopBatch:
    """Loops of one flow definition: numbered ones under a prefix, or named ones.

    :param created_after: time before the first of them was created, by the service's clock, ISO
        8601; empty where it is not known: then all loops of the flow definition are looked at.
    """

    flow_definition_arn: str
    prefix: str = ""
    count: int = 0
    names: Sequence[str] = ()
    created_after: str = ""

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "LoopBatch":
        """Read a batch from what `StartHumanLoopsOperator` left in XCom, or from `written`."""
        try:
            return cls(
                value["flow_definition_arn"], value.get("loop_prefix", ""), int(value["loops"]),
                tuple(value.get("loop_names", ())), value.get("created_after", ""),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"{str(value)[:200]!r} is no batch of human loops ({error}): give what "
                "StartHumanLoopsOperator returned"
            ) from error

    def written(self) -> dict[str, Any]:
        """Return the batch as JSON."""
        return {
            "flow_definition_arn": self.flow_definition_arn,
            "loop_prefix": self.prefix,
            "loops": self.count,
            "loop_names": list(self.names),
            "created_after": self.created_after,
        }

    def __iter__(self) -> Iterator[str]:
        """Yield the name of each loop."""
        yield from self.names
        for number in range(self.count - len(self.names)):
            yield loop_name(self.prefix, number)

    def __len__(self) -> int:
        """Return how many loops there are."""
        return self.count


def loop_prefix(ti: Any, number: int, round_number: int, salt: str) -> str:
    """Return what the names of a task instance's loops begin with.

    :param number: how often the task instance was resubmitted on purpose
    :param round_number: 0 for the first reviews, more for those that follow disagreement
    :param salt: random part that is kept for the task instance, as of any job's name
    """
    name = job_name(ti, number, round_number, salt)
    readable = name[: -HASH_LENGTH - 1][:_READABLE].rstrip("-")
    return f"{readable}-{name[-HASH_LENGTH:]}"


def loop_name(prefix: str, number: int) -> str:
    """Return the name of a batch's loop."""
    return f"{prefix}-{number:0{_NUMBER_DIGITS}d}"
