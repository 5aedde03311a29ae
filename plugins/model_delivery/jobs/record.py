"""What the task state store remembers of one submission, across tries and crashes."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from model_delivery.jobs.service import Handle, Intent


class Outcome(StrEnum):
    """How a submission ended, as far as the next try must know."""

    OPEN = "open"
    DONE = "done"
    """Finished or given away: nothing is left to stop."""
    FAILED = "failed"
    """The job ended badly or was stopped by us: the next try makes another."""


@dataclass(frozen=True)
class Record:
    """One submission of a task instance.

    :param max_tries: Airflow's, of the task instance: a clear changes it.
    :param generation: how many of its jobs ended badly before this one.
    :param salt: random part of the job's name.
    :param digests: digest of each field of the request; the request itself may be large and, with
        some services, holds keys.
    :param search: what finds the job again where its handle was not persisted.
    :param at: when the intent was persisted, ISO 8601; None before.
    :param known: ids of like jobs that were there before ours.
    :param place: endpoint and region where the job was submitted.
    :param made_at: when the call that made the job was sent, ISO 8601.
    :param clears: how often anything of the run had been cleared when this began.
    :param retries: the task's `retries` then.
    """

    max_tries: int
    generation: int = 0
    salt: str = ""
    handle: Handle | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    at: str | None = None
    known: tuple[str, ...] = ()
    outcome: Outcome = Outcome.OPEN
    place: str = ""
    made_at: str | None = None
    clears: int = 0
    retries: int = 0

    @classmethod
    def read(cls, value: Any) -> "Record":
        """Return a record from what the store holds; fields of other versions are left out."""
        names = {each.name for each in fields(cls)}
        kept = {name: item for name, item in dict(value or {}).items() if name in names}
        kept["known"] = tuple(kept.get("known", ()))
        return cls(**{**kept, "outcome": Outcome(kept.get("outcome", Outcome.OPEN))})

    def written(self) -> dict[str, Any]:
        """Return the JSON value to store."""
        return {**asdict(self), "known": list(self.known), "outcome": self.outcome.value}

    @property
    def intent(self) -> Intent | None:
        """What was about to be submitted, or None before that was known."""
        if self.at is None:
            return None
        return Intent(dict(self.search), datetime.fromisoformat(self.at), frozenset(self.known))

    def intending(
        self, request: Mapping[str, Any], search: Mapping[str, Any], known: tuple[str, ...]
    ) -> "Record":
        """Return the record of a request that is about to be sent."""
        at = datetime.now(UTC).isoformat()
        return replace(self, digests=digests(request), search=dict(search), at=at, known=known)

    def next_generation(self) -> "Record":
        """Return the record of the job after one that ended badly."""
        return Record(
            self.max_tries, generation=self.generation + 1, clears=self.clears,
            retries=self.retries,
        )  # fmt: skip

    def salted(self) -> "Record":
        """Return the record with what makes the job's name ours alone, before it is intended."""
        if self.salt or self.at:
            return self
        return replace(self, salt=secrets.token_hex(8))


def digests(request: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of each field of a request: equal values, equal digests."""
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        for name, value in request.items()
    }


def differing_fields(request: Mapping[str, Any], recorded: Mapping[str, str]) -> list[str]:
    """Return the fields whose values are not those that were recorded."""
    ours = digests(request)
    return sorted(name for name in {*ours, *recorded} if ours.get(name) != recorded.get(name))


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Return where a job was made with another request, leaf by leaf.

    What ours leaves out, a service may have filled in, and what Describe leaves out (at the top:
    tags) says nothing; elsewhere absent and empty are the same.

    :param ours: the request.
    :param theirs: what the service says it was.
    """
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        names = sorted(ours if path else ours.keys() & theirs.keys())
        return [
            line
            for name in names
            for line in differences(ours[name], theirs.get(name), f"{path}.{name}".lstrip("."))
        ]
    if ours == theirs or (not ours and not theirs):
        return []
    return [f"{path}: ours {ours!r}, theirs {theirs!r}"]
