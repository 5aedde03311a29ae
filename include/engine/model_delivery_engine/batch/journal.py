"""The journal of one shard: what is done, and of what. It lies in storage, so any worker resumes.

It is written anew as one object, after each part or, where there are many, every few of them, when
their own objects are there: a kill between costs those parts again, whose objects are then written
over with the same bytes.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from model_delivery_engine.batch.compression import Member
from model_delivery_engine.batch.storage import Storage, read_bytes
from model_delivery_engine.errors import BatchError

_VERSION = 3


@dataclass(frozen=True)
class JournalObject:
    """An object that a part left: name below the shard's folder, bytes, SHA-256."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class JournalPart:
    """One part that is done."""

    index: int
    start: int
    end: int
    records: int
    ok: int
    errors: int
    skipped: int
    input_digest: str
    answers: JournalObject
    error_lines: JournalObject | None


@dataclass
class Journal:
    """What a shard's journal holds.

    :param identity: digests of input, range, model and configuration; a resume with others is
        refused, and so is a merge of shards that differ in more than their ranges
    :param batch_size: records in one run of the model, fixed when the shard was begun
    :param largest_part: size that parts grow to, bytes, fixed likewise
    :param parts: the parts done, by index; a kill may leave gaps
    :param members: compressed members where parts may be entered, by part index
    """

    identity: dict[str, str]
    shard: dict[str, Any]
    batch_size: int
    largest_part: int
    complete: bool = False
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
            raise ValueError("another version")
        parts = [_part(each) for each in data.pop("parts")]
        members = {each.pop("index"): Member(**each) for each in data.pop("members")}
        return cls(**data, parts={part.index: part for part in parts}, members=members)

    def totals(self) -> dict[str, int]:
        """Return records, ok, errors and skipped over the parts done."""
        names = ("records", "ok", "errors", "skipped")
        return {name: sum(getattr(p, name) for p in self.parts.values()) for name in names}


def _part(data: dict[str, Any]) -> JournalPart:
    answers = JournalObject(**data.pop("answers"))
    errors = data.pop("error_lines")
    return JournalPart(
        **data, answers=answers, error_lines=None if errors is None else JournalObject(**errors)
    )


def journal_uri(folder: str) -> str:
    """Return where a shard's journal lies."""
    return f"{folder}/journal.json"


def write_journal(storage: Storage, folder: str, journal: Journal) -> None:
    """Put the journal, in place of the one before."""
    storage.write_stream(journal_uri(folder), [journal.to_json()])


def read_journal(storage: Storage, folder: str) -> Journal | None:
    """Return a shard's journal, or None where none was begun; BatchError for a broken one."""
    uri = journal_uri(folder)
    if not storage.exists(uri):
        return None
    try:
        return Journal.from_json(read_bytes(storage, uri))
    except (KeyError, TypeError, ValueError) as error:
        raise BatchError(
            f"{uri} is no journal of this release ({error}); delete {folder}/ to begin again"
        ) from error


def check_identity(journal: Journal, identity: Mapping[str, str], folder: str) -> None:
    """Refuse to go on with anything else than the shard was begun with."""
    changed = [name for name in identity if journal.identity.get(name) != identity[name]]
    if changed:
        raise BatchError(
            f"{folder}: the {' and the '.join(changed)} changed since this shard was begun, so it "
            "cannot go on; put back what was, or delete that folder or write elsewhere to begin "
            "again"
        )
