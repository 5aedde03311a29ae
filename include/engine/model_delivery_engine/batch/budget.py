"""How many records may fail before a job is given up, counted over all its shards."""

from dataclasses import dataclass

from model_delivery_engine.batch.storage import Storage
from model_delivery_engine.errors import BudgetError


@dataclass(frozen=True)
class ErrorBudget:
    """The records that may fail.

    :param max_errors: their number (default: any)
    :param max_error_percent: their share of all records, 0 to 100, held at the end (default: any)
    :param early_abort_records: records after which a job is given up if `early_abort_percent` of
        those done failed (default: never)
    :param early_abort_percent: that share, 0 to 100 (default: 50)
    """

    max_errors: int | None = None
    max_error_percent: float | None = None
    early_abort_records: int | None = None
    early_abort_percent: float = 50.0

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        limits = (self.max_errors, self.max_error_percent, self.early_abort_records)
        return any(limit is not None for limit in limits)

    def check(self, records: int, errors: int, *, complete: bool, where: str) -> None:
        """Hold counts of a job to the budget.

        :param complete: whether these are all the job's records
        :raises BudgetError: too many failed
        """
        if self.max_errors is not None and errors > self.max_errors:
            raise BudgetError(
                f"{where}: {errors} of {records} records failed, {self.max_errors} may; "
                "read the error lines, and correct the input or the budget"
            )
        share = 100 * errors / records if records else 0.0
        limit = self._share(records, complete)
        if limit is not None and share > limit:
            raise BudgetError(
                f"{where}: {errors} of {records} records ({share:.2f} %) failed, {limit} % may; "
                "read the error lines, and correct the input or the budget"
            )

    def _share(self, records: int, complete: bool) -> float | None:
        if complete:
            return self.max_error_percent
        early = self.early_abort_records
        return self.early_abort_percent if early is not None and records >= early else None


class Tallies:
    """The shards' counts, each in the name of an object: one listing tells the job's.

    :param folder: where they lie, the same for all shards of a job
    :param index: our shard's
    """

    def __init__(self, storage: Storage, folder: str, index: int) -> None:
        self._storage = storage
        self._prefix = f"{folder}/tallies/"
        self._index = index
        self._own: str | None = None

    def publish(self, records: int, errors: int) -> None:
        """Replace our shard's counts."""
        uri = f"{self._prefix}{self._index:05d}-{records}-{errors}"
        if uri == self._own:
            return
        self._storage.write_stream(uri, [])
        if self._own is not None:
            self._storage.delete(self._own)
        self._own = uri

    def total(self) -> tuple[int, int]:
        """Return records and errors over all shards; of a shard's tallies the newest counts."""
        newest: dict[int, tuple[int, int]] = {}
        for each in self._storage.list(self._prefix):
            index, records, errors = map(int, each.uri.rpartition("/")[2].split("-"))
            newest[index] = max(newest.get(index, (0, 0)), (records, errors))
        return sum(n for n, _ in newest.values()), sum(n for _, n in newest.values())
