"""Wrapping what another compiler made: the same manifest, golden samples and parity as ours.

SageMaker Neo answers with a vendor's artifact and no evidence. What ONNX Runtime can open is held
to the source model's answers and timed, as our own would be. What it cannot (a library for Neo's
own runtime) is packed as it is, with the source's answers as golden outputs: the device that runs
it has to reproduce those, and the manifest says ``runtime: neo`` and leaves parity open.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from model_delivery_engine import weights
from model_delivery_engine.agreement import CONVERTED, agree
from model_delivery_engine.archive import extract_archive
from model_delivery_engine.bundle import open_bundle, write_bundle
from model_delivery_engine.compile.contest import load_model
from model_delivery_engine.compile.evidence import gather
from model_delivery_engine.compile.request import CompilationRequest
from model_delivery_engine.compile.toolchain import toolchain
from model_delivery_engine.digest import digest_file
from model_delivery_engine.errors import BundleError, EngineError, MemoryShortError
from model_delivery_engine.frameworks import Imported, to_onnx
from model_delivery_engine.graph import prepare_graph, read_whole
from model_delivery_engine.latency import THREADS, kind_for, measure_latency
from model_delivery_engine.manifest import NEO, ONNX_RUNTIME, Golden, Manifest, Source
from model_delivery_engine.memory import memory_bounded
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.options import CompilerOptions, parse_compiler_options
from model_delivery_engine.parity import SINGLE, Tolerance, measure_parity
from model_delivery_engine.runtime import Model, check_golden, session_options
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.shapes import parse_data_input_config
from model_delivery_engine.tensors import TensorSpec

# What another compiler's arithmetic may cost; the bound is the frameworks' converters' own.
VENDOR = Tolerance(1e-3, 1e-2)


def wrap_artifact(
    archive: Path,
    artifact: Path,
    bundle: Path,
    request: CompilationRequest,
    *,
    settings: CompilerSettings | None = None,
) -> Manifest:
    """Write a bundle around an artifact that another compiler made of a model.

    What ONNX Runtime opens is packed as one file, weights inside; the bundle is then opened and has
    to reproduce its golden outputs, or it is removed.

    :param archive: the model's ``.tar.gz``, which the artifact was compiled from
    :param artifact: the compiler's ``.tar.gz``
    :param bundle: the ``.tar.gz`` to write
    :param request: what was asked of that compiler
    :param settings: what this machine allows (default: from the environment)
    :raises ArchiveError: an archive that is missing, corrupt or unsafe
    :raises CompilationError: a model that cannot be read here, so that nothing can be held to it
    :raises BundleError: an artifact with nothing in it, or of another model
    :raises InferenceError: a model or an artifact that needs more memory than the settings allow,
        or whose run takes longer
    :raises ParityError: an artifact that ONNX Runtime opens, whose answers differ too much
    """
    settings = settings or CompilerSettings.from_environment()
    seconds = settings.limits.seconds
    with (
        memory_bounded(settings.limits.memory_bytes),
        tempfile.TemporaryDirectory(prefix="wrap-") as name,
    ):
        work = Path(name)
        source, imported = _source(archive, request, settings, work)
        reference = load_model(source, unoptimised_options())
        evidence, conversion, _ = gather(source, imported, request, CompilerOptions(), {}, seconds)
        golden, expected = evidence.golden, evidence.expected
        manifest = Manifest(
            name=request.name,
            model_digest="",
            source=Source(request.source_uri, digest_file(archive), request.framework),
            target=request.target,
            toolchain=toolchain(),
            inputs=reference.inputs,
            outputs=tuple(spec.answered(expected[spec.name]) for spec in reference.outputs),
            golden=Golden("", 0, VENDOR.atol, VENDOR.rtol),
            runtime=NEO,
            format="neo",
            conversion=conversion,
        )
        extract_archive(artifact, work / "artifact")
        _refuse_empty(work / "artifact", artifact.name)
        member, model = artifact, _openable(work / "artifact", reference, seconds)
        if model is not None:
            member, opened = model
            member = _whole(member, work)
            answers = opened.run(golden)
            manifest = dataclasses.replace(
                manifest,
                runtime=ONNX_RUNTIME,
                inputs=opened.inputs,
                outputs=tuple(spec.answered(answers[spec.name]) for spec in opened.outputs),
                format=member.suffix.removeprefix("."),
                golden=Golden("", 0, SINGLE.atol, SINGLE.rtol),
                parity=dataclasses.replace(
                    measure_parity(answers, expected, tolerance=VENDOR),
                    kind=kind_for(request.target),
                ),
                latency=measure_latency(
                    load_model(source, session_options(THREADS)), opened, golden, request.target
                ),
            )
            # Held to are the golden inputs; of the others it is said where it differs, since a
            # vendor's arithmetic need not have single precision's range.
            drawn = [probe.distribution for probe in evidence.probes]
            beyond = agree(
                opened.run, evidence.probes, CONVERTED, optional=drawn, ranking=evidence.ranking
            )
            assert manifest.parity is not None
            proof = dataclasses.replace(
                manifest.parity,
                proved=beyond.proved,
                left_out=(*evidence.left_out, *beyond.left_out),
            )
            manifest = dataclasses.replace(manifest, parity=proof)
            expected = answers
        written = write_bundle(
            bundle,
            model=member,
            manifest=manifest,
            golden_inputs=golden,
            golden_outputs=expected,
        )
        if written.runtime == ONNX_RUNTIME:
            _check_written(bundle, work / "written")
        return written


def _whole(path: Path, work: Path) -> Path:
    """Return a model as one file, since a bundle has one: with the weights it keeps beside it."""
    if not list(weights.files_of(path)):
        return path
    whole = work / "whole.onnx"
    onnx.save(read_whole(path), whole)
    return whole


def _check_written(bundle: Path, into: Path) -> None:
    """Hold the model in a bundle to its golden outputs, away from the artifact's other files."""
    try:
        opened = open_bundle(bundle, into)
        check_golden(Model.load(opened), opened)
    except BaseException:
        bundle.unlink(missing_ok=True)
        raise


def _refuse_empty(folder: Path, name: str) -> None:
    if not any(path.is_file() and path.stat().st_size for path in folder.rglob("*")):
        raise BundleError(
            f"{name} holds no file with anything in it: no compiler made that; compile the model "
            "again"
        )


def is_bundle(artifact: Path) -> bool:
    """Tell whether an artifact is a bundle already, of localcloud's making; it is verified.

    :raises BundleError: a bundle that was altered
    """
    with tempfile.TemporaryDirectory(prefix="bundle-") as name:
        folder = Path(name) / "members"
        extract_archive(artifact, folder)
        if not (folder / "manifest.json").is_file() or not (folder / "golden").is_dir():
            return False
        open_bundle(artifact, Path(name) / "opened")
    return True


def _source(
    archive: Path, request: CompilationRequest, settings: CompilerSettings, work: Path
) -> tuple[Path, Imported]:
    shapes = parse_data_input_config(request.data_input_config, request.framework)
    extract_archive(archive, work / "archive", max_bytes=settings.limits.archive_bytes)
    options = _reading_options(request.compiler_options)
    imported = to_onnx(
        request.framework, work / "archive", shapes, work / "imported", settings, *options
    )
    source = work / "source.onnx"
    prepare_graph(imported.model, shapes, source)
    return source, imported


def _reading_options(text: str | None) -> tuple[dict[str, str], str | dict[str, str]]:
    """Return what says how to read the model; the rest of Neo's options is for its compiler."""
    parsed = json.loads(text or "{}")
    given = parsed if isinstance(parsed, dict) else {}
    kept = {name: given[name] for name in ("dtype", "signature_def_key") if name in given}
    options = parse_compiler_options(json.dumps(kept))
    signature = options.signature_def_key
    return ({"signature_def_key": signature} if signature else {}), options.dtype


def _openable(folder: Path, reference: Model, seconds: float) -> tuple[Path, Model] | None:
    """Return the artifact's one model, if ONNX Runtime opens it and it has the source's tensors."""
    files = [path for path in folder.rglob("*") if path.suffix in (".onnx", ".ort")]
    if len(files) != 1:
        return None
    try:
        model = load_model(files[0], session_options(THREADS), seconds)
    except MemoryShortError:
        raise
    except EngineError:
        return None
    if not _takes(model.inputs, reference.inputs) or not _takes(model.outputs, reference.outputs):
        raise BundleError(
            f"{files[0].name} takes {_list(model.inputs)} and returns {_list(model.outputs)}; the "
            f"source model takes {_list(reference.inputs)} and returns {_list(reference.outputs)}: "
            "they are not the same model"
        )
    return files[0], model


def _takes(specs: Sequence[TensorSpec], wanted: Sequence[TensorSpec]) -> bool:
    """Tell whether tensors are the wanted ones; they may leave open what those fix."""
    ours, theirs = ({spec.name: spec for spec in each} for each in (specs, wanted))
    return ours.keys() == theirs.keys() and all(
        spec.dtype == theirs[name].dtype and spec.accepts(theirs[name].shape)
        for name, spec in ours.items()
    )


def _list(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)
