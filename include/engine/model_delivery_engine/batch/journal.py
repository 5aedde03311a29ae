"""The journal of one shard: what is done, and of what. It lies in storage, so any worker resumes.

Each run writes a journal of its own, and reads those of all runs together: parts are the same
whoever ran them, so what any of them noted is done. A run that is taken for dead, and is not, can
thus undo nothing of its successor's.

A journal is written anew as one object, after each part or, where there are many, every few of
them, when their own objects are there: a kill between costs those parts again, whose objects are
then written over with the same bytes.
"""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from model_delivery_engine.batch.compression import Member
from model_delivery_engine.batch.storage import Storage, read_bytes
from model_delivery_engine.errors import BatchError, StoppedError

_VERSION = 4
_PREFIX = "journal-"


@dataclass(frozen=True)
class JournalObject:
    """An object that a part left: name below the shard's folder, bytes, SHA-256."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class JournalPart:
    """One part that is done; where its answers are many, they are several objects, in order."""

    index: int
    start: int
    end: int
    records: int
    ok: int
    errors: int
    skipped: int
    input_digest: str
    answers: tuple[JournalObject, ...]
    error_lines: tuple[JournalObject, ...]


@dataclass
class Journal:
    """What a shard's journal holds.

    :param identity: digests of input, range, model and configuration; a resume with others is
        refused, and so is a merge of shards that differ in more than their ranges
    :param batch_size: records in one run of the model, fixed when the shard was begun
    :param largest_part: size that parts grow to, bytes, fixed likewise
    :param output_format: of the parts' answers
    :param output_compression: likewise
    :param end: the position where the input ended; None until that was read
    :param parts: the parts done, by index; a kill may leave gaps
    :param members: compressed members where parts may be entered, by part index
    """

    identity: dict[str, str]
    shard: dict[str, Any]
    batch_size: int
    largest_part: int
    output_format: str
    output_compression: str
    complete: bool = False
    end: int | None = None
    parts: dict[int, JournalPart] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the journal as JSON."""
        data = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        data["version"] = _VERSION
        data["parts"] = [self.parts[n] for n in sorted(self.parts)]
        data["members"] = [
            {"index": n, **dataclasses.asdict(self.members[n])} for n in sorted(self.members)
        ]
        return orjson.dumps(data, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, text: bytes) -> "Journal":
        """Read a journal; raises KeyError, TypeError or ValueError for anything else."""
        data = orjson.loads(text)
        if data.pop("version") != _VERSION:
            raise ValueError("of another release")
        parts = [_part(each) for each in data.pop("parts")]
        members = {each.pop("index"): Member(**each) for each in data.pop("members")}
        return cls(**data, parts={part.index: part for part in parts}, members=members)

    def totals(self) -> dict[str, int]:
        """Return records, ok, errors and skipped over the parts done."""
        names = ("records", "ok", "errors", "skipped")
        return {name: sum(getattr(p, name) for p in self.parts.values()) for name in names}

    def _begun_as(self) -> tuple[object, ...]:
        """Return what two runs of a shard have in common, so that their parts are the same."""
        return (
            self.identity, self.shard, self.batch_size, self.largest_part, self.output_format,
            self.output_compression,
        )  # fmt: skip

    def begun_like(self, other: "Journal") -> bool:
        """Tell whether two runs cut and run the same parts."""
        return self._begun_as() == other._begun_as()

    def joined(self, other: "Journal") -> "Journal":
        """Return what either of two runs that were begun alike has done."""
        return dataclasses.replace(
            self,
            complete=self.complete or other.complete,
            end=other.end if self.end is None else self.end,
            parts=self.parts | other.parts,
            members=self.members | other.members,
        )


def _part(data: dict[str, Any]) -> JournalPart:
    answers, errors = data.pop("answers"), data.pop("error_lines")
    return JournalPart(
        **data,
        answers=tuple(JournalObject(**each) for each in answers),
        error_lines=tuple(JournalObject(**each) for each in errors),
    )


def is_journal(uri: str) -> bool:
    """Tell a journal by its name."""
    return uri.rpartition("/")[2].startswith(_PREFIX)


class JournalWriter:
    """Writes one run's journal, and deletes those of earlier runs that it has taken over.

    :param folder: the shard's
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._uri = f"{folder}/{_PREFIX}{secrets.token_hex(4)}.json"
        self._taken_over = _journal_uris(storage, folder)

    def begin(self, journal: Journal) -> None:
        """Put the first journal of a shard, before any part of it.

        Of two runs that do so at once, one at most finds no other's when its own is there, and goes
        on: the other finds that one's, or both do.

        :raises StoppedError: another run began it in its own way; nothing is left of this one
        """
        self.write(journal)
        if not all(journal.begun_like(each) for each in _journals(self._storage, self._folder)):
            self._storage.delete(self._uri)
            raise StoppedError(
                f"{self._folder}: another run began this shard at the same time, with other parts; "
                "run it again to go on with those"
            )

    def write(self, journal: Journal) -> None:
        """Put the journal, in place of this run's before.

        :param journal: holds all that `read_journal` returned after this object was made
        """
        self._storage.write_stream(self._uri, [journal.to_json()])
        while self._taken_over:
            self._storage.delete(self._taken_over.pop())


def read_journal(storage: Storage, folder: str) -> Journal | None:
    """Return what all runs of a shard have done, or None where none was begun.

    Where they were begun differently, one of them has not got to its first part: that is left out.

    :raises BatchError: a broken journal
    """
    found = _journals(storage, folder)
    if not found:
        return None
    first = min(found, key=lambda each: (not each.complete, not each.parts))  # else the first name
    for each in found:
        if each.begun_like(first):
            first = first.joined(each)
    return first


def _journals(storage: Storage, folder: str) -> list[Journal]:
    try:
        return [Journal.from_json(text) for text in _texts(storage, folder)]
    except (KeyError, TypeError, ValueError) as error:
        raise BatchError(
            f"{folder}: there is no going on from its journals ({error}); delete that folder to "
            "begin again"
        ) from error


def _texts(storage: Storage, folder: str) -> list[bytes]:
    while True:
        uris = _journal_uris(storage, folder)
        try:
            return [read_bytes(storage, uri) for uri in uris]
        except Exception:  # the store's own error, whatever its type
            if all(map(storage.exists, uris)):
                raise
            # Another run has taken one over meanwhile: its own holds what that one held.


def _journal_uris(storage: Storage, folder: str) -> list[str]:
    return [each.uri for each in storage.list(f"{folder}/{_PREFIX}")]


def check_identity(journal: Journal, identity: Mapping[str, str], folder: str) -> None:
    """Refuse to go on with anything else than the shard was begun with."""
    changed = [name for name in identity if journal.identity.get(name) != identity[name]]
    if changed:
        raise BatchError(
            f"{folder}: the {' and the '.join(changed)} changed since this shard was begun, so it "
            "cannot go on; put back what was, or delete that folder or write elsewhere to begin "
            "again"
        )
