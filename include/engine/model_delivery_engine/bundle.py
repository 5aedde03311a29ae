"""The bundle: one ``.tar.gz`` with a model, its manifest and golden samples.

``manifest.json``, the model (``model.onnx``, or ``model.ort`` in ONNX Runtime's own format, or
``model.tar.gz`` as Neo made it), ``golden/inputs.npz``, ``golden/outputs.npz`` and nothing else.
The digest of a bundle is `digest_file` of the archive.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model_delivery_engine.archive import extract_archive, pack_archive
from model_delivery_engine.arrays import ArraysError, read_arrays, write_arrays
from model_delivery_engine.digest import digest_bytes, digest_file
from model_delivery_engine.errors import BundleError
from model_delivery_engine.manifest import Golden, Manifest, Source
from model_delivery_engine.measurements import Latency, Parity
from model_delivery_engine.tensors import Array, TensorSpec

__all__ = [
    "Bundle",
    "Golden",
    "Latency",
    "Manifest",
    "Parity",
    "Source",
    "TensorSpec",
    "open_bundle",
    "write_bundle",
]

MANIFEST = "manifest.json"
MODELS = {"onnx": "model.onnx", "ort": "model.ort", "neo": "model.tar.gz"}
GOLDEN_INPUTS = "golden/inputs.npz"
GOLDEN_OUTPUTS = "golden/outputs.npz"
_MEMBERS = frozenset({MANIFEST, GOLDEN_INPUTS, GOLDEN_OUTPUTS})


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened and whose digests were verified."""

    manifest: Manifest
    model_path: Path
    golden_inputs: dict[str, Array]
    golden_outputs: dict[str, Array]


def write_bundle(
    archive: Path,
    *,
    model: Path,
    manifest: Manifest,
    golden_inputs: Mapping[str, Array],
    golden_outputs: Mapping[str, Array],
) -> Manifest:
    """Write a bundle; it appears at once, complete, or not at all.

    :param archive: the ``.tar.gz`` to write
    :param model: the file to put in, of the manifest's ``format``
    :param manifest: its ``model_digest`` and its golden ``digest`` and ``count`` are computed here;
        whatever was given for them is ignored
    :param golden_inputs: arrays by input name, samples along the first dimension
    :param golden_outputs: what the model answers to them
    :returns: the manifest as written
    :raises BundleError: golden arrays whose names are not the manifest's inputs and outputs
    """
    _check_names("inputs", golden_inputs, manifest.inputs)
    _check_names("outputs", golden_outputs, manifest.outputs)
    with tempfile.TemporaryDirectory(prefix="bundle-") as name:
        folder = Path(name)
        (folder / "golden").mkdir()
        member = MODELS[manifest.format]
        shutil.copyfile(model, folder / member)
        write_arrays(folder / GOLDEN_INPUTS, golden_inputs)
        write_arrays(folder / GOLDEN_OUTPUTS, golden_outputs)
        golden = dataclasses.replace(
            manifest.golden, digest=_golden_digest(folder), count=_count(golden_inputs)
        )
        complete = dataclasses.replace(
            manifest, model_digest=digest_file(folder / member), golden=golden
        )
        (folder / MANIFEST).write_text(complete.to_json(), encoding="utf-8")
        pack_archive(folder, archive)
    return complete


def open_bundle(archive: Path, into: Path) -> Bundle:
    """Extract a bundle and verify it against its own manifest.

    :param archive: the bundle
    :param into: folder for its files: absent or empty
    :raises ArchiveError: the archive is corrupt or unsafe
    :raises BundleError: a member is missing or unknown, a digest or tensor differs; nothing is left
        in ``into``
    """
    extract_archive(archive, into)
    try:
        return _read_bundle(archive, into)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)  # what failed its check is not left to be loaded
        raise


def _read_bundle(archive: Path, folder: Path) -> Bundle:
    members = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    model = next((name for name in MODELS.values() if name in members), MODELS["onnx"])
    if wrong := sorted(members ^ {*_MEMBERS, model}):
        raise BundleError(
            f"{archive.name}: {wrong[0]!r} is missing or does not belong in a bundle; "
            "compile the model again"
        )
    manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
    if MODELS.get(manifest.format) != model:
        raise BundleError(
            f"{archive.name}: the manifest's format {manifest.format!r} is not that of {model}; "
            "compile the model again"
        )
    _check_digest(archive, model, digest_file(folder / model), manifest.model_digest)
    _check_digest(archive, "golden", _golden_digest(folder), manifest.golden.digest)
    inputs = _read_arrays(archive, folder / GOLDEN_INPUTS)
    outputs = _read_arrays(archive, folder / GOLDEN_OUTPUTS)
    _check_names("inputs", inputs, manifest.inputs)
    _check_names("outputs", outputs, manifest.outputs)
    return Bundle(manifest, folder / model, inputs, outputs)


def _check_digest(archive: Path, part: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise BundleError(
            f"{archive.name}: {part} has the digest {actual}, its manifest says {expected}; "
            "fetch the bundle again, and compile again if it stays so"
        )


def _check_names(kind: str, arrays: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> None:
    if wrong := sorted(set(arrays) ^ {spec.name for spec in specs}):
        raise BundleError(
            f"golden {kind}: {wrong[0]!r} is missing or is no tensor of the manifest; "
            "compile the model again"
        )


def _golden_digest(folder: Path) -> str:
    """One digest for two files: over their two digests, a line each."""
    lines = [digest_file(folder / name) for name in (GOLDEN_INPUTS, GOLDEN_OUTPUTS)]
    return digest_bytes("\n".join(lines).encode())


def _count(arrays: Mapping[str, Array]) -> int:
    first = next(iter(arrays.values()))
    return int(first.shape[0]) if first.ndim else 1


def _read_arrays(archive: Path, path: Path) -> dict[str, Array]:
    try:
        return read_arrays(path)
    except ArraysError as error:
        raise BundleError(
            f"{archive.name}: {path.parent.name}/{path.name} is not readable ({error}); "
            "compile the model again"
        ) from error
