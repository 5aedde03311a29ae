"""Compilation: an archive with a trained model becomes a bundle that carries its own evidence."""

import importlib.metadata
import json
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from model_delivery_engine.archive import extract_archive
from model_delivery_engine.bundle import write_bundle
from model_delivery_engine.digest import digest_file
from model_delivery_engine.errors import CompilationError, DataInputError, InferenceError
from model_delivery_engine.frameworks import model_file
from model_delivery_engine.golden import draw_inputs
from model_delivery_engine.graph import check_graph, load_graph
from model_delivery_engine.latency import THREADS, measure_latency
from model_delivery_engine.manifest import Golden, Manifest, Source
from model_delivery_engine.optimise import optimise, unoptimised_options
from model_delivery_engine.parity import measure_parity
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.shapes import fix_shapes, parse_data_input_config
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import Array

_TOOLCHAIN = ("model-delivery-engine", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class CompilationRequest:
    """What to compile and for what.

    :param framework: a Framework of CreateCompilationJob; ONNX is the one compiled here
    :param data_input_config: JSON of input name to dimensions, ``{"image": [-1, 64]}``
    :param target: from `resolve_target`
    :param name: name of the model in the manifest
    :param source_uri: where the archive came from
    :param compiler_options: JSON of CompilerOptions (default: none); no option is known yet
    """

    framework: str
    data_input_config: str
    target: Target
    name: str
    source_uri: str
    compiler_options: str | None = None


def compile_model(archive: Path, bundle: Path, request: CompilationRequest) -> Manifest:
    """Compile a model and write its bundle, which appears complete or not at all.

    Shapes are fixed from DataInputConfig, the graph is optimised, both models answer the same
    golden inputs, and the compiled one is held to the source's answers.

    :param archive: ``.tar.gz`` with exactly one ``.onnx`` file
    :param bundle: the ``.tar.gz`` to write
    :returns: the bundle's manifest
    :raises ArchiveError: the archive is missing, corrupt or unsafe
    :raises CompilationError: the request or the model cannot be compiled; DataInputError where
        DataInputConfig is at fault
    :raises ParityError: the compiled model's answers differ too much
    """
    shapes = parse_data_input_config(request.data_input_config)
    _check_options(request.compiler_options)
    with tempfile.TemporaryDirectory(prefix="compile-") as name:
        work = Path(name)
        extract_archive(archive, work / "source")
        source = model_file(request.framework, work / "source")
        graph = load_graph(source)
        fix_shapes(graph, shapes)
        check_graph(graph, source.name)
        onnx.save(graph, work / "fixed.onnx")
        optimise(work / "fixed.onnx", work / "model.onnx")
        manifest, inputs, outputs = _measure(source, work / "model.onnx", request, archive)
        return write_bundle(
            bundle,
            model=work / "model.onnx",
            manifest=manifest,
            golden_inputs=inputs,
            golden_outputs=outputs,
        )


def _check_options(options: str | None) -> None:
    try:
        parsed = json.loads(options or "{}")
    except ValueError as error:
        raise CompilationError(f"CompilerOptions is not JSON ({error}); leave it out") from error
    if not isinstance(parsed, dict):
        raise CompilationError("CompilerOptions is not a JSON object; leave it out")
    for name in parsed:
        raise CompilationError(f"CompilerOptions has {name!r}, which no target here knows; drop it")


def _measure(
    source: Path, compiled: Path, request: CompilationRequest, archive: Path
) -> tuple[Manifest, dict[str, Array], dict[str, Array]]:
    """Run source and compiled model; return the manifest, golden inputs and golden outputs.

    The golden outputs are the compiled model's: a device has to reproduce what it was given, and
    how far that is from the source model is what parity records.
    """
    reference = _load(source, unoptimised_options())
    baseline = _load(source, session_options(THREADS))
    model = _load(compiled, session_options(THREADS))
    inputs = draw_inputs(model.inputs)
    expected = _answers(reference, inputs, request)
    outputs = _answers(model, inputs, request)
    parity = measure_parity(outputs, expected)
    manifest = Manifest(
        name=request.name,
        model_digest=digest_file(compiled),
        source=Source(request.source_uri, digest_file(archive), request.framework),
        target=request.target,
        toolchain=toolchain(),
        inputs=model.inputs,
        outputs=model.outputs,
        golden=Golden("", 0, parity.atol, parity.rtol),
        parity=parity,
        latency=measure_latency(baseline, model, inputs, request.target),
    )
    return manifest, inputs, outputs


def _load(path: Path, options: object) -> Model:
    try:
        return Model(open_session(path, options), path.name)
    except InferenceError as error:
        raise CompilationError(str(error)) from error


def _answers(
    model: Model, inputs: dict[str, Array], request: CompilationRequest
) -> dict[str, Array]:
    try:
        return model.run(inputs)
    except InferenceError as error:
        raise DataInputError(
            f"the model does not run with DataInputConfig {request.data_input_config}: {error}; "
            "check the dimensions against the model"
        ) from error


def toolchain() -> dict[str, str]:
    """Version of each package that made a bundle, and of Python."""
    versions = {name: importlib.metadata.version(name) for name in _TOOLCHAIN}
    return {**versions, "python": platform.python_version()}
