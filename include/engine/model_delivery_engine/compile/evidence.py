"""What candidates are held to: the answers of the model they are made from, and of its framework.

A framework's model is held twice. Its ONNX form is held to what the framework itself answers, and
each candidate to what the ONNX form answers.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_delivery_engine import probes
from model_delivery_engine.agreement import (
    CONVERTED,
    HALF_PRECISION,
    QUANTISED,
    agree,
    is_drawn,
)
from model_delivery_engine.arithmetic import CLOSENESS, precision_of
from model_delivery_engine.compile.contest import load_model
from model_delivery_engine.compile.request import CompilationRequest
from model_delivery_engine.compile.settled import Settler
from model_delivery_engine.errors import (
    ConversionError,
    DataInputError,
    EngineError,
    InferenceError,
    MemoryShortError,
    OptionsError,
    ParityError,
    PrecisionError,
    Reason,
    TimeShortError,
)
from model_delivery_engine.frameworks import Imported
from model_delivery_engine.frameworks.results import Answers, refuse_other_inputs
from model_delivery_engine.measurements import Parity
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.options import COUNTED, CompilerOptions
from model_delivery_engine.parity import measure_parity, refuse_nan, tolerance_for
from model_delivery_engine.probes import Answer, Probe, Run
from model_delivery_engine.quantize.metric import Metric, make_metric
from model_delivery_engine.quantize.samples import Samples, load_samples, part
from model_delivery_engine.ranking import Ranking, ranking_of
from model_delivery_engine.runtime import Model
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

# Of the user's own samples, as many as a distribution draws: they show what the model is for, and
# outrank what is drawn beyond golden inputs.
ENOUGH_SAMPLES = 64


@dataclass(frozen=True)
class Judged:
    """Labelled samples, and what the original's answers to them score."""

    samples: Samples
    scores: Array


@dataclass(frozen=True)
class Evidence:
    """What candidates are held to.

    :param golden: the golden inputs, which are also what latency is measured on
    :param expected: the source model's answers to them, unoptimised
    :param probes: the source model's answers to further inputs
    :param left_out: distributions that it has no answers to, each with the reason
    :param calibration: samples to calibrate on: the user's own for it, or a part of the labelled
    :param search: labelled samples for the search that holds an accuracy bound
    :param held_out: labelled samples that every candidate is judged on
    :param apart: whether these parts have no sample in common
    :param metric: the user's metric
    :param ranking: the scores behind the source's places and labels, where it has such outputs
    :param settler: what else the source may answer
    :param precision: that the source model itself computes in
    :param outranked: the user's samples outrank what is drawn beyond golden inputs
    """

    golden: Mapping[str, Array]
    expected: Mapping[str, Array]
    probes: tuple[Probe, ...] = ()
    left_out: tuple[str, ...] = ()
    calibration: Samples | None = None
    search: Judged | None = None
    held_out: Judged | None = None
    apart: bool = False
    metric: Metric | None = None
    ranking: Ranking | None = None
    settler: Settler | None = None
    precision: str = "fp32"
    outranked: bool = False

    @property
    def in_time(self) -> bool:
        """Whether nothing was left out for want of time alone."""
        return not any(probes.NO_TIME in why for why in self.left_out)

    def hold(self, answer: Answer, *, unoptimised: bool = False) -> Parity:
        """Hold a model of the source's own precision to its answers, golden inputs and beyond.

        :param answer: runs the model
        :param unoptimised: it runs as the source did when it was asked, so that of a source in
            lower precision too nothing is rounded elsewhere
        :raises ParityError: a value that is further off than another form of the source may be
        """
        precision = "fp32" if unoptimised else self.precision
        closeness = CLOSENESS[precision]
        settle = None
        if self.settler is not None:
            settle = self.settler.of_source(closeness, again=not unoptimised)
        got, expected = answer(dict(self.golden)), self.expected
        tolerance = tolerance_for(precision, expected)
        try:
            near = measure_parity(got, expected, tolerance=tolerance)
        except ParityError:
            if settle is None:
                raise
            expected = settle(probes.UNIT, Run(dict(self.golden), dict(expected)), got)[0].expected
            near = measure_parity(got, expected, tolerance=tolerance)
        extremes = [each.distribution for each in self.probes if _is_extreme(each.distribution)]
        beyond = agree(
            answer,
            self.probes,
            closeness,
            extremes if self.outranked else (),
            may_refuse=False,
            ranking=self.ranking,
            settle=settle,
        )
        left_out = (*self.left_out, *beyond.left_out)
        return dataclasses.replace(near, proved=beyond.proved, left_out=left_out)


def gather(
    source: Path,
    imported: Imported,
    request: CompilationRequest,
    options: CompilerOptions,
    files: Mapping[str, Path],
    seconds: float,
) -> tuple[Evidence, Parity | None, tuple[TensorSpec, ...]]:
    """Run the source model unoptimised, and hold it to the framework's own answers.

    :param seconds: for one run of it
    :returns: the evidence, the conversion's parity (None for ONNX), and the model's inputs
    :raises ParityError: the conversion differs from what the framework answers
    :raises OptionsError: samples or labels that do not fit the model
    """
    reference = load_model(source, unoptimised_options(), seconds)
    answers = imported.reference
    if answers is not None:
        refuse_other_inputs(answers, reference.inputs)
    categories = answers.categories if answers else {}
    golden = probes.draw(probes.UNIT, reference.inputs, categories=categories)[0]
    expected = answers_to(reference, golden, request)
    refuse_nan(expected)
    own = _load_own(reference, options, files, answers is not None and answers.missing)
    ranking, precision = ranking_of(source, seconds), precision_of(source)
    settler, conversion = Settler(source, seconds), None
    enough = sum(map(len, own.values())) >= ENOUGH_SAMPLES
    if answers is None:
        asked, left_out = answer_itself(reference, own)
    else:
        asked, left_out = _with_inputs(answers, own, reference), answers.left_out
        proof = _Proof(reference, answers, request.framework, ranking, settler, precision)
        conversion = proof.parity(asked, outranked=enough)
        asked = _answered_by(reference, asked)
    evidence = Evidence(
        golden, expected, asked, left_out, own.get("calibration"),
        ranking=ranking, settler=settler, precision=precision, outranked=enough,
    )  # fmt: skip
    if "samples" in own:
        evidence = _judging(evidence, reference, own["samples"], answers, options, files)
    return evidence, conversion, reference.inputs


def own_files(options: CompilerOptions, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the user's samples, for the framework to answer."""
    named = {"samples": options.samples, "calibration": options.calibration}
    return {name: files[uri] for name, uri in named.items() if uri is not None}


def _load_own(
    reference: Model, options: CompilerOptions, files: Mapping[str, Path], missing: bool
) -> dict[str, Samples]:
    labels = {"samples": options.labels}
    return {
        name: load_samples(path, reference.inputs, labels.get(name), missing=missing)
        for name, path in own_files(options, files).items()
    }


def answer_itself(
    reference: Model, own: Mapping[str, Samples], seconds: float | None = None
) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
    """Have the ONNX model itself answer probes: what is made of it is held to that.

    :param own: the user's samples, by what they are for
    :param seconds: for all that is drawn (default: `probes.SECONDS`)
    :returns: the probes, and what it has no answers to, each with the reason
    :raises OptionsError: samples that the model itself fails on
    """
    until = time.monotonic() + (probes.SECONDS if seconds is None else seconds)
    found, left_out = [], []

    def answer(inputs: dict[str, Array]) -> dict[str, Array]:
        # A loop of the model may have no end on some of them.
        return reference.run(inputs, seconds=max(1.0, until - time.monotonic()))

    for name in probes.DISTRIBUTIONS:
        probe = probes.answer_probe(name, reference.inputs, answer, until)
        if isinstance(probe, str):
            left_out.append(f"{name}: {probe}")
        else:
            found.append(probe)
    for name, samples in own.items():
        batches = samples.batches(reference.batch_size)
        answered = probes.answer_samples(batches, reference.run)
        if isinstance(answered, str):
            raise OptionsError(
                f"the model itself fails on the user's {name}: {answered}; remove those samples "
                "that it cannot take",
                reason=Reason.SAMPLES_INVALID,
            )
        found.append(Probe(name, answered))
    return tuple(found), tuple(left_out)


def _with_inputs(
    answers: Answers, own: Mapping[str, Samples], reference: Model
) -> tuple[Probe, ...]:
    """Return what the framework answered, the user's samples in the model's own data types."""
    found = []
    for probe in answers.probes:
        runs = probe.runs
        if probe.distribution in own:
            batches = list(own[probe.distribution].batches(reference.batch_size))
            runs = _answers_to_own(batches, probe)
        found.append(Probe(probe.distribution, runs))
    return tuple(found)


def _answers_to_own(batches: Sequence[dict[str, Array]], probe: Probe) -> tuple[Run, ...]:
    """Return as many of the answers to the user's samples as are compared."""
    compared, runs = probes.Compared(), []
    for batch, run in zip(batches, probe.runs, strict=False):
        if compared.enough:
            break
        runs.append(Run(batch, run.expected, run.noise))
        compared.add(batch, run.expected)
    every = len(probe.runs) == len(batches)
    if not every and (probe.distribution == probes.LABELLED or not compared.enough):
        raise ConversionError(
            f"the framework did not answer all of the user's {probe.distribution}; code in the "
            "archive may have run: export the model to ONNX yourself",
            reason=Reason.UNTRUSTED_CODE,
        )
    return tuple(runs)


@dataclass(frozen=True)
class _Proof:
    """Holds the ONNX form to the framework's own answers."""

    reference: Model
    answers: Answers
    framework: str
    ranking: Ranking | None
    settler: Settler
    precision: str

    def parity(self, asked: Sequence[Probe], *, outranked: bool) -> Parity:
        """Return how far it is off.

        :param outranked: the user's samples outrank what is drawn beyond golden inputs, on which
            the form may then differ, which is said
        :raises ParityError: it differs
        """
        outputs = [spec.name for spec in self.reference.outputs]
        unheard = [name for name in outputs if name not in _heard(asked)]
        if unheard == outputs:
            raise ParityError(
                f"{self.framework} itself has no answer for any output of the ONNX conversion "
                f"({', '.join(outputs)}), so that nothing is proved of it; export the model to "
                "ONNX yourself"
            )
        extremes = [each.distribution for each in asked if _is_extreme(each.distribution)]
        extremes += self.answers.optional
        try:
            parity = self._agree(asked, extremes if outranked else self.answers.optional)
        except PrecisionError as error:
            raise PrecisionError(f"{self.framework}: {error}") from error
        except ParityError as error:
            raise ParityError(
                f"the ONNX conversion differs from what {self.framework} itself answers: {error}; "
                "export the model to ONNX yourself, or replace the layer that is converted wrongly"
                + ("" if outranked else self._way_out(asked, extremes))
            ) from error
        silent = [f"output {n!r}: {self.framework} itself has no such answer" for n in unheard]
        left_out = (*self.answers.left_out, *parity.left_out, *silent)
        return dataclasses.replace(parity, left_out=left_out)

    def _agree(self, asked: Sequence[Probe], optional: Sequence[str]) -> Parity:
        closeness = HALF_PRECISION if self.precision == "fp16" else CONVERTED
        if self.answers.quantised:
            closeness = QUANTISED
        return agree(
            self.reference.run,
            asked,
            closeness,
            optional,
            ranking=self.ranking,
            settle=self.settler.of_conversion(closeness),
        )

    def _way_out(self, asked: Sequence[Probe], extremes: Sequence[str]) -> str:
        try:
            self._agree(asked, extremes)
        except EngineError:
            return ""
        return (
            "; if your data is never like that, show what it is like: "
            f"{ENOUGH_SAMPLES} samples or more, CompilerOptions "
            '{"calibration": "s3://…"}, outrank what is drawn'
        )


def _is_extreme(distribution: str) -> bool:
    # Missing values and a tree's own split points are none.
    return is_drawn(distribution) and probes.plain(distribution)[0] in probes.DISTRIBUTIONS


def _heard(asked: Sequence[Probe]) -> set[str]:
    """Return the outputs that every distribution was answered in."""
    return set.intersection(*(set(run.expected) for probe in asked for run in probe.runs))


def _answered_by(reference: Model, asked: Sequence[Probe]) -> tuple[Probe, ...]:
    """Return the same probes with the ONNX model's answers, where it has any."""
    found = []
    for probe in asked:
        try:
            runs = [Run(run.inputs, reference.run(run.inputs), run.noise) for run in probe.runs]
        except InferenceError:
            continue
        found.append(Probe(probe.distribution, tuple(runs)))
    return tuple(found)


def _judging(
    evidence: Evidence,
    reference: Model,
    labelled: Samples,
    answers: Answers | None,
    options: CompilerOptions,
    files: Mapping[str, Path],
) -> Evidence:
    """Score the original's answers, and part the samples."""
    assert labelled.labels is not None
    metric = make_metric(
        options.metric, files.get(options.metric), options.output, reference.outputs
    )
    outputs = _original_answers(metric, reference, labelled, answers)
    asked = len(labelled) // (reference.batch_size or 1) * (reference.batch_size or 1)
    if len(outputs) != asked:
        raise OptionsError(
            f"output {metric.output!r} has {len(outputs)} answers to {asked} samples, so that none "
            'can be held against a label; name another one, CompilerOptions {"output": …}',
            reason=Reason.SAMPLES_INVALID,
        )
    metric = metric.fitted(outputs, labelled.labels[: len(outputs)])
    scores = metric.scores(outputs, labelled.labels)
    parts = part(labelled, reference.batch_size, calibrated=evidence.calibration is not None)
    _refuse_few(len(parts.held_out), parts.apart, options)
    return dataclasses.replace(
        evidence,
        calibration=evidence.calibration or parts.calibration,
        search=Judged(labelled.take(parts.search), scores[parts.search]),
        held_out=Judged(labelled.take(parts.held_out), scores[parts.held_out]),
        apart=parts.apart,
        metric=metric,
    )


def _original_answers(
    metric: Metric, reference: Model, labelled: Samples, answers: Answers | None
) -> Array:
    """Return the framework's answers where it has that output, else the ONNX model's."""
    if answers is not None and metric.output in _heard(answers.probes):
        runs = next(p.runs for p in answers.probes if p.distribution == probes.LABELLED)
        return metric.gathered(run.expected for run in runs)
    return metric.gathered(reference.run(b) for b in labelled.batches(reference.batch_size))


def _refuse_few(held_out: int, apart: bool, options: CompilerOptions) -> None:
    """Refuse a bound that so few samples cannot show: one of them would be more than it."""
    bound = options.max_accuracy_drop
    if bound is None:
        return
    if apart and (options.metric not in COUNTED or bound * held_out >= 1 or not bound):
        return
    what = f"{held_out} are held out to judge on" if apart else "they are too few to part"
    least = int(np.ceil(1 / bound)) if options.metric in COUNTED and bound else 8
    raise OptionsError(
        f"max_accuracy_drop {bound:g} cannot be shown on these samples: {what}, and at least "
        f"{least} must be, with as many for the search and up to 128 for calibration (none where "
        '"calibration" is given); give more samples, or a wider bound',
        reason=Reason.SAMPLES_INVALID,
    )


def answers_to(
    model: Model, inputs: Mapping[str, Array], request: CompilationRequest
) -> dict[str, Array]:
    """Run a model on golden inputs; DataInputError where it does not take their shapes."""
    try:
        return model.run(inputs)
    except (MemoryShortError, TimeShortError):
        raise
    except InferenceError as error:
        raise DataInputError(
            f"the model does not run with DataInputConfig {request.data_input_config}: {error}; "
            f"check the dimensions against the model{_way_out(model)}",
            reason=Reason.SHAPE_MISMATCH,
        ) from error


def _way_out(model: Model) -> str:
    whole = [spec.name for spec in model.inputs if NUMPY_TYPES[spec.dtype].kind in "biu"]
    if not whole or len(whole) == len(model.inputs):
        return ""
    return (
        f"; where {whole[0]!r} is a mode that has to be one of certain numbers, fix it: "
        'CompilerOptions {"values": {' + json.dumps(whole[0]) + ": …}}"
    )
