"""What a framework's converter is given and gives back, on both sides of the sandbox.

Nothing here or in a framework's file imports a heavy package at module level: the host reads these
files without the framework, the environment without the host's packages.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.shapes import derive_shapes

OPSET = 18  # the newest that every converter here writes
BATCH_NAME = "batch"
# What the process in the sandbox leaves in its folder.
MODEL = "model.onnx"
REFERENCE = "reference"  # a folder: `<number>.npz` for each distribution
OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Conversion:
    """One model to convert, as the process in the sandbox sees it.

    :param source: the model's file or folder
    :param into: the ONNX file to write
    :param shapes: DataInputConfig: input name to dimensions, in the framework's order; empty where
        the model's own are taken
    :param dtype: data type of the inputs, for a framework whose models do not say
    :param dtypes: the same by input, where they differ
    :param values: of inputs that are fixed, for an example to trace the model with
    :param allow_code: whether formats that run code of the archive may be loaded
    :param options: further options of the framework
    """

    source: Path
    into: Path
    shapes: dict[str, tuple[int, ...]]
    dtype: str = "float32"
    allow_code: bool = False
    options: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


Runner = Callable[[list[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Converted:
    """A model that was converted.

    :param run: the framework's own model: takes the ONNX model's inputs in order, returns arrays in
        the order of its outputs, None for one that the framework itself does not answer. The ONNX
        model is held to its answers.
    :param double: the framework is given floats in double precision, as its users give them
    :param quantised: the model computes in 8 bits itself
    :param exact_splits: the trees' split points were carried over bit by bit
    :param knows_missing: it was trained on missing values, so that none of them is optional
    :param categories: by column of the one input, what it was trained on and takes there; the rest
        is drawn as for any model
    """

    run: Runner
    double: bool = False
    quantised: bool = False
    exact_splits: bool = False
    knows_missing: bool = False
    categories: Mapping[int, Sequence[float]] = field(default_factory=dict)


def with_shapes(task: Conversion, own: Mapping[str, Sequence[Any] | None]) -> Conversion:
    """Return a task with the model's own shapes where DataInputConfig gives none.

    :param own: as `shapes.derive_shapes` takes them
    :raises DataInputError: they are not given, and the model does not say them
    """
    return task if task.shapes else dataclasses.replace(task, shapes=derive_shapes(own))


def only(files: Sequence[Path], folder: Path, what: str, how: str) -> Path:
    """Return the one file found in an archive.

    :param what: what is looked for, in words
    :param how: how to make an archive with one
    :raises ConversionError: none or several, by name
    """
    # What the Finder of macOS adds to an archive beside each file carries the same suffix.
    found = sorted(path for path in files if not path.name.startswith("._"))
    if not found:
        raise ConversionError(
            f"the archive has no {what}; {how}",
            reason=Reason.MODEL_MISSING,
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
        raise ConversionError(
            f"the archive has {len(found)} models ({names}); pack one model in one archive",
            reason=Reason.MODEL_AMBIGUOUS,
        )
    return found[0]


def with_suffix(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files below a folder with one of the suffixes, whatever their case."""
    return [p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in suffixes]
