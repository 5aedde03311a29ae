"""What a conversion left, read outside the sandbox without trust: its author's code may have run.

Nothing is read before every entry of the folder is known to be a plain file in a shallow folder.
What the process says of itself is taken where it cannot be checked (whether a conversion failed,
and why), and checked where it can: the inputs that it was to answer are drawn again.
"""

import itertools
import json
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model_delivery_engine import probes
from model_delivery_engine.disk import remove_tree
from model_delivery_engine.errors import ConversionError, Reason, one_line
from model_delivery_engine.frameworks import splits
from model_delivery_engine.frameworks.conversion import OUTCOME, REFERENCE
from model_delivery_engine.probes import Probe, Run
from model_delivery_engine.tensors import Array, TensorSpec

_MOST_FILES = 10_000
_MOST_FOLDERS = 8  # in one another
_OUTCOME_BYTES = 2**20
_TEXT = 2000  # letters
_TABLE_RANK = 2
_KINDS = {"inputs": "biuf", "expected": "biufUS", "noise": "f"}  # of numpy's data types


class Unusable(ValueError):
    """What the process left is not what a conversion leaves; says what."""


@dataclass(frozen=True)
class Outcome:
    """How a conversion went, in its own words.

    :param answered: distributions that the framework answered
    :param pending: those that it was answering, or had before it, when it ended
    :param left_out: those that it has no answers to, each with the reason
    :param categories: by column, what was drawn there
    """

    ok: bool = False
    error: str = "no message"
    reason: Reason | None = None
    operator: str | None = None
    memory: bool = False
    quantised: bool = False
    knows_missing: bool = False
    answered: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[int, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What the framework answered.

    :param probes: by distribution, the user's samples among them
    :param left_out: distributions that it has no answers to, each with the reason
    :param quantised: it computes in 8 bits itself
    :param missing: it takes NaN for a value that is missing
    :param optional: distributions on which the ONNX form may differ
    :param categories: by column of the one input, what was drawn there
    """

    probes: tuple[Probe, ...]
    left_out: tuple[str, ...]
    quantised: bool = False
    missing: bool = False
    optional: tuple[str, ...] = ()
    categories: Mapping[int, tuple[float, ...]] = field(default_factory=dict)


def weigh(folder: Path) -> tuple[int, int]:
    """Return the bytes on the disk below a folder, and the number of entries.

    :raises Unusable: an entry that is no plain file or folder, too many of them, too deep, or a
        folder that its writer shut
    """
    size = count = 0
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            with os.scandir(place) as found:
                entries = list(itertools.islice(found, _MOST_FILES + 1))
        except FileNotFoundError:  # it went while we looked
            continue
        except OSError as error:
            raise Unusable(f"a folder cannot be read ({error.strerror})") from error
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            size, count = size + status.st_blocks * 512, count + 1
            if stat.S_ISDIR(status.st_mode):
                waiting.append((place / entry.name, depth + 1))
            elif not stat.S_ISREG(status.st_mode):
                raise Unusable("a link, pipe or other special file")
        if count > _MOST_FILES or depth > _MOST_FOLDERS:
            raise Unusable(f"more than {_MOST_FILES} files, or folders {_MOST_FOLDERS} deep")
    return size, count


def refuse_strange(folder: Path, framework: str) -> None:
    """Refuse what no conversion leaves, and remove it; nothing runs any more that could change it.

    :raises ConversionError: a link, a pipe, or more files or folders than any model has
    """
    try:
        weigh(folder)
    except Unusable as error:
        remove_tree(folder)
        raise strange(framework, str(error)) from error


def strange(framework: str, what: str) -> ConversionError:
    """Return the error for what code of the archive must have left."""
    return ConversionError(
        f"the conversion of the {framework} model left what none leaves: {what}; code in the "
        "archive may have run: export the model to ONNX yourself",
        reason=Reason.UNTRUSTED_CODE,
    )


def read_outcome(folder: Path) -> Outcome | None:
    """Read how it went, None where the process ended without a word.

    :raises Unusable: it is not what `inside` writes
    """
    path = folder / OUTCOME
    if not path.is_file():
        return None
    if path.stat().st_size > _OUTCOME_BYTES:
        raise Unusable(f"{OUTCOME} of more than {_OUTCOME_BYTES} bytes")
    try:
        told = json.loads(path.read_bytes())
        return Outcome(
            ok=told.get("ok") is True,
            error=_text(told.get("error", "no message")),
            reason=Reason(told["reason"]) if told.get("reason") else None,
            operator=_text(told["operator"]) if told.get("operator") else None,
            memory=told.get("memory") is True,
            quantised=told.get("quantised") is True,
            knows_missing=told.get("knows_missing") is True,
            answered=tuple(_text(each) for each in told.get("answered", ())),
            pending=tuple(_text(each) for each in told.get("pending", ())),
            left_out={_text(n): _text(why) for n, why in told.get("left_out", {}).items()},
            categories={int(n): _numbers(v) for n, v in told.get("categories", {}).items()},
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable(f"{OUTCOME} cannot be read ({one_line(error, 100)})") from error


def _text(value: Any) -> str:
    """Return a text that can be stored and shown: half a character cannot."""
    if not isinstance(value, str):
        raise Unusable(f"{type(value).__name__} where a text is expected")
    return " ".join(value[:_TEXT].encode("utf-8", "replace").decode().split())


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if not numbers or not np.isfinite(numbers).all():
        raise Unusable("categories that are no numbers")
    return numbers


def read_answers(
    folder: Path, outcome: Outcome, samples: Sequence[str], most_bytes: int
) -> tuple[Probe, ...]:
    """Read what the framework answered.

    :param samples: names of the user's samples, which have to be among it, as golden inputs have
    :param most_bytes: of all answers together
    :raises Unusable: something that is missing, doubled, unknown, or cannot be read
    """
    names = outcome.answered
    known = {probes.UNIT, probes.MISSING, splits.SPLITS, *probes.DISTRIBUTIONS, *samples}
    if strangers := {probes.plain(name)[0] for name in names} - known:
        raise Unusable(f"answers to {sorted(strangers)[0]!r}, which was not asked")
    if len(set(names)) < len(names):
        raise Unusable("two answers to the same")
    if unanswered := [name for name in (probes.UNIT, *samples) if name not in names]:
        raise Unusable(f"no answers to {unanswered[0]!r}")
    paths = [folder / REFERENCE / f"{number}.npz" for number in range(len(names))]
    try:
        if sum(map(_expanded, paths)) > most_bytes:
            raise Unusable(f"answers of more than {most_bytes} bytes")
        return tuple(Probe(n, _read_runs(path)) for n, path in zip(names, paths, strict=True))
    except (MemoryError, Unusable):
        raise
    except Exception as error:  # numpy and zipfile fail in many ways on what is not theirs
        raise Unusable(f"answers that cannot be read ({one_line(error, 200)})") from error


def _expanded(path: Path) -> int:
    with zipfile.ZipFile(path) as file:
        return sum(member.file_size for member in file.infolist())


def _read_runs(path: Path) -> tuple[Run, ...]:
    runs: dict[int, Run] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            index, kind, name = key.split(":", 2)
            run = runs.setdefault(int(index), Run({}, {}))
            array = file[key]
            if array.dtype.kind not in _KINDS[kind]:
                raise Unusable(f"{kind} of the data type {array.dtype}")
            getattr(run, kind)[name] = array
    if sorted(runs) != list(range(len(runs))) or not runs:
        raise Unusable("runs that are missing")
    if len({tuple(sorted(run.expected)) for run in runs.values()}) > 1:
        raise Unusable("runs that answer different outputs")
    return tuple(runs[number] for number in sorted(runs))


def refuse_other_inputs(answers: Answers, specs: Sequence[TensorSpec]) -> None:
    """Refuse answers to other inputs than those that a distribution draws.

    :param specs: the ONNX model's inputs
    :raises ConversionError: names the distribution; categories of no column of theirs
    """
    if not _are_columns(answers.categories, specs):
        raise ConversionError(
            "the framework told categories of columns that the model does not have; code in the "
            "archive may have run: export the model to ONNX yourself",
            reason=Reason.UNTRUSTED_CODE,
        )
    for probe in answers.probes:
        name, narrow = probes.plain(probe.distribution)
        if name not in (*probes.DISTRIBUTIONS, probes.MISSING):
            continue
        drawn = probes.draw(name, specs, narrow=narrow, categories=answers.categories)
        given = [run.inputs for run in probe.runs]
        if len(drawn) != len(given) or not all(map(_same, drawn, given)):
            raise ConversionError(
                f"the framework answered other inputs than {name!r} draws; code in the archive may "
                "have run: export the model to ONNX yourself",
                reason=Reason.UNTRUSTED_CODE,
            )


def _are_columns(categories: Mapping[int, Any], specs: Sequence[TensorSpec]) -> bool:
    if not categories:
        return True
    table = specs[0].shape if len(specs) == 1 else ()
    return len(table) == _TABLE_RANK and all(0 <= place < table[1] for place in categories)


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        array.dtype == other[name].dtype
        and np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f")
        for name, array in one.items()
    )
