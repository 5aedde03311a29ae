"""What the task state store remembers of a task's human loops, across tries and crashes."""

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from model_delivery.exceptions import DeliveryError
from model_delivery.human_loops.batch import LoopBatch, loop_prefix
from model_delivery.jobs.clears import Seen, clears_of
from model_delivery.jobs.eviction import Claim, claim_of
from model_delivery.jobs.submission import StateStore

STORE_KEY = "model_delivery.human_loops"


class LoopState:
    """The batches that a task instance has started since it was last cleared.

    :param context: of the running task; Airflow 3.3's `task_state_store` is in it.
    """

    def __init__(self, context: Mapping[str, Any]) -> None:
        store: StateStore | None = context.get("task_state_store")
        if store is None:
            raise DeliveryError(
                "Airflow gave this task no task state store, without which a retry could start its "
                "human loops again: model-delivery needs Airflow 3.3 or later"
            )
        self._store = store
        self._ti = context["ti"]
        # One record for each clear, which keeps the store and starts new loops.
        self._records: list[dict[str, Any]] = [dict(each) for each in store.get(STORE_KEY) or []]
        now = Seen.of(self._ti, clears_of(context))
        last = self._records[-1] if self._records else None
        if last is None or now.is_cleared_since(Seen.read(last, now), done=bool(last.get("done"))):
            self._records.append(now._asdict())
        self._record = self._records[-1]

    def save(self, **changes: Any) -> None:
        """Keep values; they never expire, since reviews may take longer than Airflow's default."""
        self._record.update(changes)
        self._store.set(STORE_KEY, self._records, retention=NEVER_EXPIRE)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value that was kept."""
        return self._record.get(name, default)

    def claim(self) -> Claim:
        """Ask whose the task is, while this try still runs.

        :raises AirflowRuntimeError: when Airflow does not tell.
        """
        return claim_of(self._ti, lambda: self._store.get(STORE_KEY) is None)

    def loop_prefix(self, round_number: int = 0) -> str:
        """Return what the names of a round's loops begin with; a retry's are the same.

        The random part is kept before the first of them is started.
        """
        if "salt" not in self._record:
            self.save(salt=secrets.token_hex(8))
        number = len(self._records) - 1
        return loop_prefix(self._ti, number, round_number, str(self._record["salt"]))

    def forget_names(self) -> None:
        """Give new names to what is started from here on: what was started before is stopped."""
        if self._record.pop("salt", None):
            self.save()

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
