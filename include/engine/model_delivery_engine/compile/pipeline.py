"""Compilation step by step: archive → ONNX → candidates → the chosen one, with its evidence."""

import dataclasses
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from model_delivery_engine import weights
from model_delivery_engine.archive import extract_archive
from model_delivery_engine.bundle import write_bundle
from model_delivery_engine.compile.cache import CompileCache, cache_key
from model_delivery_engine.compile.candidates import Trial, Workbench
from model_delivery_engine.compile.contest import (
    alone,
    holds_its_own,
    load_model,
    taking_turns,
)
from model_delivery_engine.compile.evidence import Evidence, answers_to, gather, own_files
from model_delivery_engine.compile.request import CompilationRequest
from model_delivery_engine.compile.selection import (
    SOURCE,
    UNTIMED,
    by_preference,
    by_size,
    fallback,
    mark_dominated,
)
from model_delivery_engine.compile.toolchain import toolchain
from model_delivery_engine.digest import digest_file
from model_delivery_engine.disk import disk_watched
from model_delivery_engine.errors import OptionsError, ParityError, Reason
from model_delivery_engine.frameworks import to_onnx
from model_delivery_engine.graph import prepare_graph
from model_delivery_engine.heap import give_back
from model_delivery_engine.latency import (
    THREADS,
    describe_machine,
    kind_for,
    machine_arch,
    measure_latency,
)
from model_delivery_engine.manifest import Golden, Manifest, Source
from model_delivery_engine.measurements import Candidate, Operator, Profile
from model_delivery_engine.memory import memory_bounded
from model_delivery_engine.options import CompilerOptions, parse_compiler_options
from model_delivery_engine.parity import difference, tolerance_for
from model_delivery_engine.profiling import profile_model
from model_delivery_engine.runtime import session_options
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.shapes import parse_data_input_config
from model_delivery_engine.tensors import Array

log = logging.getLogger(__name__)

_TYPED = ("PYTORCH", "SKLEARN")  # whose models do not say, or take, another data type


def compile_model(
    archive: Path,
    bundle: Path,
    request: CompilationRequest,
    *,
    settings: CompilerSettings | None = None,
    files: Mapping[str, Path] | None = None,
) -> Manifest:
    """Compile a model and write its bundle, which appears complete or not at all.

    The framework's model becomes ONNX, its shapes are fixed from DataInputConfig, and every way to
    compile it that the options allow is built and measured. The chosen one is held to the source's
    answers and profiled.

    :param archive: ``.tar.gz`` with exactly one model
    :param bundle: the ``.tar.gz`` to write
    :param settings: what this machine allows (default: from the environment)
    :param files: the files that the options name, by URI (`CompilerOptions.uris`)
    :returns: the bundle's manifest
    :raises ArchiveError: the archive is missing, corrupt or unsafe
    :raises CompilationError: the request or the model cannot be compiled; DataInputError where
        DataInputConfig is at fault, OptionsError where CompilerOptions are
    :raises InferenceError: MemoryShortError for a model that needs more than the settings' memory,
        TimeShortError for one whose run takes longer than their seconds
    :raises ParityError: the compiled model's answers differ too much
    :raises ToolchainError: this machine lacks a sandbox or a framework's environment
    :raises DiskFullError: no space in the folder of temporary files
    """
    settings = settings or CompilerSettings.from_environment()
    files = files or {}
    options = parse_compiler_options(request.compiler_options)
    _refuse_idle(options, request)
    _check_files(options, files)
    cache = None
    if settings.cache and archive.is_file():
        cache = CompileCache(settings.cache, settings.cache_bytes)
    key = cache_key(archive, request, files, settings) if cache else ""
    if cache and (restored := cache.restore(key, bundle, request)):
        log.info("restored from the cache: %s", key)
        return restored
    with (
        memory_bounded(settings.limits.memory_bytes),
        taking_turns(settings.environments),
        disk_watched(Path(tempfile.gettempdir()), f"compiling {archive.name}"),
        tempfile.TemporaryDirectory(prefix="compile-") as name,
    ):
        manifest, evidence = _compile(
            archive, bundle, request, options, settings, files, Path(name)
        )
    if cache and evidence.in_time:  # otherwise another try may prove more
        cache.keep(key, bundle)
    return manifest


def _refuse_idle(options: CompilerOptions, request: CompilationRequest) -> None:
    """Refuse an option that would change nothing about this request."""
    if options.dtype != CompilerOptions.dtype and request.framework not in _TYPED:
        raise OptionsError(
            f'CompilerOptions: a model of {request.framework} knows its data types; leave "dtype" '
            f"out, which is for {' and '.join(_TYPED)}"
        )
    if options.signature_def_key and request.framework != "TENSORFLOW":
        raise OptionsError(
            f"CompilerOptions: a model of {request.framework} has no signatures; leave "
            '"signature_def_key" out'
        )
    if options.optimise_for == "host" and machine_arch() != request.target.arch:
        raise OptionsError(
            'CompilerOptions: optimise_for "host" is for machines like this one, which is '
            f"{machine_arch() or 'of an unknown architecture'}; the target is "
            f"{request.target.arch}: leave it out, or compile on such a machine"
        )


def _check_files(options: CompilerOptions, files: Mapping[str, Path]) -> None:
    for uri in options.uris:
        if uri not in files:
            raise OptionsError(
                f"CompilerOptions names {uri}, which was not fetched; check that it exists",
                reason=Reason.SAMPLES_INVALID,
            )


def _compile(
    archive: Path,
    bundle: Path,
    request: CompilationRequest,
    options: CompilerOptions,
    settings: CompilerSettings,
    files: Mapping[str, Path],
    work: Path,
) -> tuple[Manifest, Evidence]:
    shapes = parse_data_input_config(request.data_input_config, request.framework)
    extract_archive(archive, work / "archive", max_bytes=settings.limits.archive_bytes)
    extra = {"signature_def_key": options.signature_def_key} if options.signature_def_key else {}
    log.info("reading the %s model", request.framework)
    imported = to_onnx(
        request.framework,
        work / "archive",
        shapes,
        work / "imported",
        settings,
        extra,
        options.dtype,
        own_files(options, files),
        options.values,
    )
    source = work / "source.onnx"
    prepare_graph(imported.model, shapes, source, options.values)
    log.info("asking it for its answers")
    evidence, conversion, specs = gather(
        source, imported, request, options, files, settings.limits.seconds
    )
    (work / "candidates").mkdir()
    workbench = Workbench(source, work / "candidates", options, request.target, evidence)
    trials = list(workbench.trials())
    timed = machine_arch() == request.target.arch
    chosen, candidates = _choose(trials, source, options, evidence, timed=timed)
    assert chosen.path is not None
    manifest, outputs = _describe(chosen, source, request, evidence, archive)
    model = work / f"model.{options.format}"
    weights.embed(chosen.path, model)
    manifest = dataclasses.replace(
        manifest,
        profile=_profile(model, evidence.golden, request),
        toolchain=toolchain(request.framework, imported.toolchain),
        conversion=conversion,
        candidates=tuple(candidates),
        metric=evidence.metric.name if evidence.metric else None,
        format=options.format,
        inputs=specs,
        fixed_inputs=options.values or None,
    )
    manifest = write_bundle(
        bundle,
        model=model,
        manifest=manifest,
        golden_inputs=evidence.golden,
        golden_outputs=outputs,
    )
    return manifest, evidence


def _choose(
    trials: list[Trial],
    source: Path,
    options: CompilerOptions,
    evidence: Evidence,
    *,
    timed: bool = True,
) -> tuple[Trial, list[Candidate]]:
    """Return the one to deliver and all records.

    Figures taken beside many others flatter the winner, so it is timed again before it wins; where
    plain ONNX Runtime turns out faster, in latency or in throughput, the next one follows, of those
    too that it dominated. Where none is left the source is delivered, also if others dominate it;
    in ORT's format, which has no source, fp32.

    :param timed: times were taken on the target's architecture, so that they decide
    """
    found = [trial.record for trial in trials]
    paths = {trial.record.name: trial.path for trial in trials}
    records, best = _best(found, options.objective, timed)
    if best is None:
        reasons = "; ".join(f"{record.name}: {record.reason}" for record in records)
        raise ParityError(f"no candidate may be delivered: {reasons}")
    while best is not None:
        path = paths[best.name]
        assert path is not None
        sure = best.name == SOURCE or not timed
        lost = None if sure else holds_its_own(source, path, evidence.golden)
        if lost is None:
            break
        slower = f"on a second look its {lost} is worse than on plain ONNX Runtime"
        rejected = dataclasses.replace(best, status="rejected", reason=slower)
        found = [rejected if each.name == best.name else each for each in found]
        records, best = _best(found, options.objective, timed)
    if best is not None:
        said = [best.reason, None if timed else UNTIMED]
        reason = "; ".join(each for each in said if each) or None
        chosen = dataclasses.replace(best, status="chosen", reason=reason)
    else:
        last = fallback(records)
        reason = None if last.name == SOURCE else f"{last.reason}; nothing else may be delivered"
        chosen = dataclasses.replace(last, status="chosen", reason=reason)
    records = [chosen if record.name == chosen.name else record for record in records]
    log.info("chosen: %s", chosen.name)
    return Trial(chosen, paths[chosen.name]), records


def _best(
    found: list[Candidate], objective: str, timed: bool
) -> tuple[list[Candidate], Candidate | None]:
    """Return the records with those that others dominate marked, and the best, None for none."""
    records = mark_dominated(found, timed=timed)
    ordered = (by_preference if timed else by_size)(records, objective)
    return records, ordered[0] if ordered else None


def _describe(
    chosen: Trial,
    source: Path,
    request: CompilationRequest,
    evidence: Evidence,
    archive: Path,
) -> tuple[Manifest, dict[str, Array]]:
    """Run the chosen model; return what the manifest says of it, and the golden outputs.

    The golden outputs are the compiled model's: a device has to reproduce what it was given, and
    how far that is from the source model is what parity records.
    """
    assert chosen.path is not None
    model = load_model(chosen.path, session_options(THREADS))
    outputs = answers_to(model, evidence.golden, request)
    exact = chosen.record.precision == "fp32"
    parity = evidence.hold(model.run) if exact else difference(outputs, evidence.expected)
    tolerance = tolerance_for(evidence.precision if exact else chosen.record.precision, outputs)
    baseline = load_model(source, session_options(THREADS))
    with alone():
        latency = measure_latency(baseline, model, evidence.golden, request.target)
    manifest = Manifest(
        name=request.name,
        model_digest="",  # `write_bundle` takes it from the file that it packs
        source=Source(request.source_uri, digest_file(archive), request.framework),
        target=request.target,
        toolchain={},
        inputs=model.inputs,
        outputs=tuple(spec.answered(outputs[spec.name]) for spec in model.outputs),
        golden=Golden("", 0, tolerance.atol, tolerance.rtol),
        quantisation="none" if exact else chosen.record.name,
        parity=dataclasses.replace(parity, kind=kind_for(request.target)),
        latency=latency,
    )
    return manifest, outputs


def _profile(path: Path, inputs: Mapping[str, Array], request: CompilationRequest) -> Profile:
    """Profile the model in another process, while this one has no session open."""
    log.info("profiling the chosen one")
    give_back()
    with alone():
        figures = profile_model(path, inputs, THREADS)
    kind = kind_for(request.target)
    taken = ("cold_load_ms", "warm_load_ms", "first_inference_ms", "inference_ms", "operators")
    kinds = {**dict.fromkeys(taken, kind), "peak_memory_bytes": kind}
    operators = tuple(Operator(**each) for each in figures.pop("operators"))
    times = tuple(figures.pop("inference_ms"))
    return Profile(
        **figures,
        operators=operators,
        inference_ms=times,
        threads=THREADS,
        machine=describe_machine(),
        versions=toolchain(),
        kinds=kinds,
    )
