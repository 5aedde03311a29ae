"""How many records may fail before a job is given up, counted over all its shards."""

from dataclasses import dataclass

from model_delivery_engine.batch.pace import Pace
from model_delivery_engine.batch.storage import Storage
from model_delivery_engine.errors import BatchError, BudgetError


@dataclass(frozen=True)
class ErrorBudget:
    """The records that may fail.

    :param max_errors: their number (default: any)
    :param max_error_percent: their share of all records, 0 to 100, held by the shard that ends last
        and when results are published (default: any)
    :param early_abort_records: records after which a job is given up if `early_abort_percent` of
        those done failed (default: never)
    :param early_abort_percent: that share or more, 0 to 100 (default: 50)
    :raises BatchError: a limit below 0, or a share above 100
    """

    max_errors: int | None = None
    max_error_percent: float | None = None
    early_abort_records: int | None = None
    early_abort_percent: float = 50.0

    def __post_init__(self) -> None:
        shares = {
            "max_error_percent": self.max_error_percent,
            "early_abort_percent": self.early_abort_percent,
        }
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 100:
                raise BatchError(f"{name} is {share}; give 0 to 100")
        counts = {"max_errors": self.max_errors, "early_abort_records": self.early_abort_records}
        for name, count in counts.items():
            if count is not None and count < 0:
                raise BatchError(f"{name} is {count}; give 0 or more")

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
        if self._too_large(share, records, complete):
            may = self.max_error_percent if complete else f"less than {self.early_abort_percent}"
            raise BudgetError(
                f"{where}: {errors} of {records} records ({share:.2f} %) failed, {may} % may; "
                "read the error lines, and correct the input or the budget"
            )

    def _too_large(self, share: float, records: int, complete: bool) -> bool:
        if complete:
            return self.max_error_percent is not None and share > self.max_error_percent
        early = self.early_abort_records
        return early is not None and records >= early and share >= self.early_abort_percent


@dataclass(frozen=True)
class Total:
    """Counts over a job's shards.

    :param done: shards that are at their end
    """

    records: int
    errors: int
    done: int


class Tallies:
    """The shards' counts, each in the name of an object: one listing tells the job's.

    They lie below the digest of what the job is, so that a job over another input, of another plan
    or with another model below the same folder does not count what this one left.

    :param folder: where they lie, the same for all shards of a job
    :param job: digest of the job's identity, without what differs between its shards
    :param index: our shard's
    """

    def __init__(self, storage: Storage, folder: str, job: str, index: int) -> None:
        self._storage = storage
        self._prefix = f"{folder}/tallies/{job.removeprefix('sha256:')[:16]}/"
        self._index = index
        self._own: str | None = None

    def begin(self) -> None:
        """Delete what an earlier run of our shard left: it starts from nothing."""
        for each in list(self._storage.list(f"{self._prefix}{self._index:05d}-")):
            self._storage.delete(each.uri)

    def publish(self, records: int, errors: int, *, done: bool) -> None:
        """Replace our shard's counts."""
        uri = f"{self._prefix}{self._index:05d}-{records}-{errors}-{int(done)}"
        if uri == self._own:
            return
        self._storage.write_stream(uri, [])
        if self._own is not None:
            self._storage.delete(self._own)
        self._own = uri

    def total(self) -> Total:
        """Return the counts over all shards; of a shard's tallies the newest counts."""
        newest: dict[int, tuple[int, ...]] = {}
        for each in self._storage.list(self._prefix):
            index, *counts = map(int, each.uri.rpartition("/")[2].split("-"))
            newest[index] = max(newest.get(index, ()), tuple(counts))
        return Total(*(sum(each[n] for each in newest.values()) for n in range(3)))


class SharedBudget:
    """A job's budget, as one of its shards holds it: its own counts at once, the others' in time.

    To tell and to ask costs three calls of a store, so that is done in 5 % of the time at most.

    :param shards: the job's; None where that is not known
    :param where: for messages
    """

    def __init__(
        self, budget: ErrorBudget, tallies: Tallies, shards: int | None, where: str
    ) -> None:
        self._budget, self._tallies, self._shards, self._where = budget, tallies, shards, where
        self._pace = Pace()
        self._others = Total(0, 0, 0)

    def begin(self) -> None:
        """Forget what an earlier run of our shard counted: it starts from nothing."""
        if self._budget.limited:
            self._tallies.begin()

    def hold(self, records: int, errors: int, *, done: bool = False) -> None:
        """Hold the job to it.

        :param records: our shard's so far
        :param done: whether these are all of them
        :raises BudgetError: too many failed
        """
        if not self._budget.limited:
            return
        if done or self._pace.due:
            with self._pace.measured():
                self._tallies.publish(records, errors, done=done)
                total = self._tallies.total()
            self._others = Total(total.records - records, total.errors - errors, total.done - done)
        found = self._others
        self._budget.check(
            found.records + records, found.errors + errors,
            complete=found.done + done == self._shards, where=self._where,
        )  # fmt: skip
