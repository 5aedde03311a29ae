"""What the task state store remembers of a task's work, across tries, clears and crashes."""

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from model_delivery.exceptions import DeliveryError
from model_delivery.jobs.clears import Seen, clears_of
from model_delivery.jobs.eviction import Claim, claim_of
from model_delivery.jobs.submission import StateStore


class KeptState:
    """A record for each clear of a task instance, which keeps the store and starts anew.

    :param context: of the running task; Airflow 3.3's `task_state_store` is in it.
    """

    # The store's key, and what a retry could do a second time without one.
    store_key: ClassVar[str]
    twice: ClassVar[str]

    def __init__(self, context: Mapping[str, Any]) -> None:
        store: StateStore | None = context.get("task_state_store")
        if store is None:
            raise DeliveryError(
                f"Airflow gave this task no task state store, without which a retry could "
                f"{self.twice} again: model-delivery needs Airflow 3.3 or later"
            )
        self._store = store
        self._ti = context["ti"]
        self._records: list[dict[str, Any]] = [
            dict(each) for each in store.get(self.store_key) or []
        ]
        now = Seen.of(self._ti, clears_of(context))
        last = self._records[-1] if self._records else None
        if last is None or now.is_cleared_since(Seen.read(last, now), done=bool(last.get("done"))):
            self._records.append(now._asdict())
        self._record = self._records[-1]

    @property
    def clears(self) -> int:
        """How often the task was cleared after it had begun."""
        return len(self._records) - 1

    def save(self, **changes: Any) -> None:
        """Keep values; they never expire, since people may take longer than Airflow's default."""
        self._record.update(changes)
        self._store.set(self.store_key, self._records, retention=NEVER_EXPIRE)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value that was kept."""
        return self._record.get(name, default)

    def claim(self) -> Claim:
        """Ask whose the task is, while this try still runs.

        :raises AirflowRuntimeError: when Airflow does not tell.
        """
        return claim_of(self._ti, lambda: self._store.get(self.store_key) is None)

    @property
    def salt(self) -> str:
        """The random part of names; kept before anything is made under them."""
        if "salt" not in self._record:
            self.save(salt=secrets.token_hex(8))
        return str(self._record["salt"])

    def forget_names(self) -> None:
        """Give new names to what is made from here on: what was made before is stopped."""
        if self._record.pop("salt", None):
            self.save()
