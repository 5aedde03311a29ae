"""What the task state store remembers of a task's human loops."""

from collections.abc import Iterator, Mapping
from typing import Any

from model_delivery.human_loops.batch import LoopBatch, loop_prefix
from model_delivery.jobs.kept_state import KeptState


class LoopState(KeptState):
    """The batches that a task instance has started since it was last cleared."""

    store_key = "model_delivery.human_loops"
    twice = "start its human loops"

    def loop_prefix(self, round_number: int = 0) -> str:
        """Return what the names of a round's loops begin with; a retry's are the same."""
        return loop_prefix(self._ti, self.clears, round_number, self.salt)

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The rounds of reviews so far, each with its `batch`."""
        return [dict(each) for each in self._record.get("rounds", [])]

    def keep_round(self, number: int, **changes: Any) -> None:
        """Keep values of a round, which may be new."""
        rounds = self.rounds
        if number == len(rounds):
            rounds.append({})
        rounds[number].update(changes)
        self.save(rounds=rounds)

    def forget_superseded(self) -> None:
        """Keep that what is open of the batches before a clear was asked to stop."""
        for record in self._records[:-1]:
            record["done"] = True
        if len(self._records) > 1:
            self.save()

    def superseded(self) -> Iterator[LoopBatch]:
        """Yield the batches before a clear that may still be open."""
        for record in self._records[:-1]:
            if record.get("done"):
                continue
            for each in record.get("rounds", []):
                if not each.get("ended"):
                    yield round_batch(each)


def round_batch(kept: Mapping[str, Any]) -> LoopBatch:
    """Return the batch of a round; of one that was cut off, with loops that may never have been."""
    if "batch" in kept:
        return LoopBatch.read(kept["batch"])
    return LoopBatch(kept["flow"], kept["prefix"], int(kept["count"]))
