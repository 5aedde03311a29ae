"""Candidates: each way to compile a model is built, held to its bounds, and timed."""

import dataclasses
import functools
import logging
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model_delivery_engine import weights
from model_delivery_engine.compile.contest import alone, latency, throughput
from model_delivery_engine.compile.evidence import Evidence, Judged
from model_delivery_engine.compile.noise import Asked, Noise, ask, measure_noise, noisier
from model_delivery_engine.compile.selection import SOURCE
from model_delivery_engine.errors import (
    DiskFullError,
    EngineError,
    InferenceError,
    MemoryShortError,
    ParityError,
    one_line,
)
from model_delivery_engine.graph import complete_types
from model_delivery_engine.heap import give_back
from model_delivery_engine.latency import THREADS, has_vnni, interleave, kind_for
from model_delivery_engine.measurements import Candidate
from model_delivery_engine.optimise import optimise, unoptimised_options
from model_delivery_engine.options import CompilerOptions
from model_delivery_engine.quantize.bounded import Bounded, quantize_bounded
from model_delivery_engine.quantize.floating import to_fp16
from model_delivery_engine.quantize.halves import LARGEST, find_overflow, round_results
from model_delivery_engine.quantize.integers import (
    PRODUCTS,
    WEIGHTED,
    Scheme,
    StaticQuantizer,
    grouped_convolutions,
    normalizations,
    quantize_dynamic,
    raise_operator_set,
    scheme_for,
)
from model_delivery_engine.quantize.lowered import refuse_unchanged
from model_delivery_engine.quantize.metric import Drop, drop_between
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.rewrite import PASSES, Pass, rewrite
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.targets import Target

log = logging.getLogger(__name__)

_EIGHT_BITS = "the model computes in 8 bits itself"
_ROUNDED = "rounded.onnx"  # what the model in halves answers where they are computed in halves


@dataclass(frozen=True)
class Integers:
    """What a static candidate computes in integers.

    :param operators: types of operators, None for all that can be
    :param dense: leave convolutions of groups in floating point
    """

    operators: tuple[str, ...] | None = None
    dense: bool = False


# Fewer operators in integers: less to lose, and fewer conversions between them. Convolutions of
# groups have few products for each conversion, and lose most.
STATIC = {
    "int8-static": Integers(),
    "int8-static-weighted": Integers(WEIGHTED),
    "int8-static-dense": Integers(WEIGHTED, dense=True),
}


@dataclass(frozen=True)
class Trial:
    """A candidate and its file, absent where it could not be built."""

    record: Candidate
    path: Path | None = None


class Workbench:
    """Builds and measures the candidates of one model.

    :param source: the ONNX model with its shapes fixed, every node named
    :param folder: for what is built
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        options: CompilerOptions,
        target: Target,
        evidence: Evidence,
    ) -> None:
        self._source = source
        self._folder = folder
        self._options = options
        self._evidence = evidence
        self._kind = kind_for(target)
        self._level = "portable"
        vnni = False
        if options.optimise_for == "host":
            self._level, vnni = "host", has_vnni()
        self._scheme: Scheme = scheme_for(target.arch, vnni)
        self._asked: list[Asked] | None = None
        self._measured_files: dict[str, Trial] = {}

    def trials(self) -> Iterator[Trial]:
        """Build and measure every candidate that the options allow, one after the other."""
        recipes: list[tuple[str, str, Callable[[Path], tuple[str, ...]]]] = []
        if self._options.format == "onnx":
            yield self._measured(Trial(Candidate(SOURCE, "fp32", "kept"), self._source))
        recipes.append(("fp32", "fp32", self._fp32))
        if self._options.precision in ("fp16", "int8"):
            recipes.append(("fp16", "fp16", self._fp16))
        if self._options.precision == "int8":
            recipes += self._int8()
        for name, precision, build in recipes:
            if precision != "fp32" and self._evidence.precision == "int8":
                refused = Candidate(name, precision, "rejected", reason=_EIGHT_BITS)
                yield Trial(refused)
                continue
            log.info("building candidate %s", name)
            give_back()
            yield self._once(self._built(name, precision, build))

    def _once(self, trial: Trial) -> Trial:
        """Measure a candidate, unless it came out as another one did."""
        if trial.path is None:
            return trial
        digest = weights.digest(trial.path)
        if same := self._measured_files.get(digest):
            reason = f"it is the same model as {same.record.name}"
            record = dataclasses.replace(
                same.record, name=trial.record.name, reverted=trial.record.reverted
            )
            if record.status == "kept":
                record = dataclasses.replace(record, status="dominated", reason=reason)
            return Trial(record, same.path)
        return self._measured_files.setdefault(digest, self._measured(trial))

    def _int8(self) -> Iterator[tuple[str, str, Callable[[Path], tuple[str, ...]]]]:
        if self._options.int8 in ("dynamic", "both"):
            yield "int8-dynamic", "int8", self._dynamic
        samples = self._evidence.calibration
        if self._options.int8 in ("static", "both") and samples is not None:
            for name, what in STATIC.items():
                yield name, "int8", functools.partial(self._static, samples=samples, what=what)

    def _built(self, name: str, precision: str, build: Callable[[Path], tuple[str, ...]]) -> Trial:
        place = self._folder / name
        place.mkdir()
        path = place / f"model.{self._options.format}"
        record = Candidate(name, precision, "kept")
        try:
            reverted = build(path)
        except DiskFullError:  # no candidate's fault: the next one would meet it too
            raise
        except EngineError as error:
            reason = f"it cannot be built: {one_line(error, 300)}"
            return Trial(dataclasses.replace(record, status="rejected", reason=reason))
        return Trial(dataclasses.replace(record, reverted=reverted), path)

    def _fp32(self, into: Path) -> tuple[str, ...]:
        optimise(self._rewritten(self._source), into, self._level)
        return ()

    def _fp16(self, into: Path) -> tuple[str, ...]:
        # ONNX Runtime's optimiser would widen the weights again where a processor has no kernels
        # for halves, so its graph stays as written.
        half = into if into.suffix == ".onnx" else into.with_name("half.onnx")
        to_fp16(self._folded(), half)
        refuse_unchanged(self._folded(), half, "fp16")
        round_results(self._folded(), half, self._folder / _ROUNDED)
        if half != into:
            optimise(half, into, "fold")
        return ()

    def _dynamic(self, into: Path) -> tuple[str, ...]:
        integers = into.with_name("integers.onnx")
        quantize_dynamic(self._folded(), integers, self._scheme)
        refuse_unchanged(self._folded(), integers, "int8")
        optimise(integers, into, self._level)
        return ()

    def _static(self, into: Path, samples: Samples, what: "Integers") -> tuple[str, ...]:
        integers = into.with_name("integers.onnx")
        reverted: tuple[str, ...] = ()
        if self._options.max_accuracy_drop is None:
            self._quantizer(into, samples, what, ()).quantize(integers)
        else:
            found = self._bounded(into, samples, what, self._options.max_accuracy_drop)
            integers, reverted = found.path, found.reverted
        refuse_unchanged(self._folded(), integers, "int8")
        optimise(integers, into, self._level)
        return reverted

    def _quantizer(
        self, into: Path, samples: Samples, what: "Integers", float_outputs: tuple[str, ...]
    ) -> StaticQuantizer:
        folded = self._folded()
        return StaticQuantizer(
            folded,
            samples,
            self._model(self._source).batch_size,
            self._scheme,
            into.parent,
            what.operators,
            float_outputs,
            [*normalizations(folded), *(grouped_convolutions(folded) if what.dense else ())],
        )

    def _bounded(self, into: Path, samples: Samples, what: "Integers", bound: float) -> Bounded:
        """Return what holds the bound: with convolutions that are fast, else with exact ones."""
        for name, float_outputs in (("fast", PRODUCTS), ("exact", WEIGHTED)):
            quantizer = self._quantizer(into, samples, what, float_outputs)
            trials = into.with_name(f"trials-{name}")
            found = quantize_bounded(quantizer, samples, bound, self._drop, trials)
            log.info("%s: %d trials, %d reverted", name, found.trials, len(found.reverted))
            if found.holds:
                break
        return found

    def _folded(self) -> Path:
        """Return the model rewritten, in the standard operators that a quantiser reads, typed."""
        path = self._folder / "folded.onnx"
        if not path.exists():
            newer = self._source.with_name("newer.onnx")
            raise_operator_set(self._source, newer)
            complete_types(self._rewritten(newer), path)
        return path

    def _rewritten(self, source: Path) -> Path:
        """Return the source with constants folded, rewritten by each pass that holds parity."""
        folded = self._folder / f"{source.stem}.folded.onnx"
        path = self._folder / f"{source.stem}.rewritten.onnx"
        if path.exists():
            return path
        optimise(source, folded, "fold")
        found = rewrite(folded, path)
        if not self._answers_alike(path):
            # A model may enlarge what one pass rounds otherwise; the others are still worth having.
            kept: tuple[Pass, ...] = ()
            for each in PASSES:
                more = (*kept, each)
                if rewrite(folded, path, more)[each.__name__] and self._answers_alike(path):
                    kept = more
            found = rewrite(folded, path, kept)
        log.info("rewritten: %s", found)
        return path

    def _answers_alike(self, path: Path) -> bool:
        try:
            # As it will run; where running rounds, in the source's own steps.
            lower = self._evidence.precision != "fp32"
            options = unoptimised_options() if lower else session_options(THREADS)
            model = Model(open_session(path, options), path.stem)
            self._evidence.hold(model.run, unoptimised=lower)
        except (InferenceError, ParityError) as error:
            log.info("a rewritten graph is left out: %s", one_line(error, 300))
            return False
        return True

    def _model(self, path: Path) -> Model:
        return Model(open_session(path, session_options(THREADS)), path.stem)

    def _drop(self, path: Path) -> Drop:
        """Return what a model loses where the search looks, apart from where it is judged."""
        search = self._evidence.search
        assert search is not None
        return self._drop_on(self._model(path), search)

    def _drop_on(self, model: Model, judged: Judged) -> Drop:
        assert self._evidence.metric is not None
        return drop_between(judged.scores, self._evidence.metric.of(model, judged.samples))

    def _measured(self, trial: Trial) -> Trial:
        if trial.path is None:
            return trial
        try:
            record = self._held(trial.record, trial.path)
        except (ParityError, InferenceError) as error:
            if trial.record.precision == "fp32" and isinstance(error, MemoryShortError):
                raise  # there is nothing to fall back to
            reason = one_line(error, 300)
            return Trial(dataclasses.replace(trial.record, status="rejected", reason=reason))
        log.info(
            "candidate %s: %s, speedup %s, throughput %s",
            record.name,
            record.status,
            record.speedup,
            record.throughput,
        )
        return Trial(record, trial.path)

    def _held(self, record: Candidate, path: Path) -> Candidate:
        """Hold a candidate to parity (fp32) or to its bounds (the rest), then time it."""
        record, noise = self._checked(record, path)
        if fault := self._fault(record, noise):
            return dataclasses.replace(record, status="rejected", reason=fault)
        with alone():
            return self._timed(record, path)

    def _checked(self, record: Candidate, path: Path) -> tuple[Candidate, Noise | None]:
        asked = self._questions() if record.name != SOURCE else []
        model, noise = self._model(path), None
        record = dataclasses.replace(record, size_bytes=weights.size_of(path))
        exact = record.precision == "fp32"
        if exact:
            self._evidence.hold(model.run)
        if record.name != SOURCE:
            try:
                noise = measure_noise(model, asked, held=exact)
            except ParityError:
                if not exact:
                    raise
                # It was held value by value; a box more, which ties, leaves no ratio to tell.
                return self._with_metric(record, model), None
            if record.precision == "fp16":
                # The same where halves are computed in halves, as they may not be here.
                model = self._model(self._folder / _ROUNDED)
                noise = noisier(noise, self._noise_of_halves(model, asked))
            record = dataclasses.replace(record, snr_db=noise.db)
        return self._with_metric(record, model), noise

    def _noise_of_halves(self, model: Model, asked: list[Asked]) -> Noise:
        try:
            return measure_noise(model, asked)
        except ParityError as error:
            folded = self._folded()
            runs = (each.inputs for each in asked)
            found = find_overflow(folded, runs, folded.with_name("sizes.onnx"))
            where = f"{found}, and halves end at {LARGEST:,.0f}" if found else "in half arithmetic"
            raise ParityError(
                f"{where}: {one_line(error, 120)}; scale the model's inputs or weights, or leave "
                "fp16 out"
            ) from error

    def _with_metric(self, record: Candidate, model: Model) -> Candidate:
        held_out = self._evidence.held_out
        if held_out is None:
            return record
        # The source too: its scores are held to those of the framework's own model.
        drop = self._drop_on(model, held_out)
        return dataclasses.replace(
            record,
            metric=float(held_out.scores.mean()) - drop.value,
            drop=drop.value,
            drop_low=drop.low,
            drop_high=drop.high,
            samples=drop.samples,
            part="held out" if self._evidence.apart else "all",
            reason=self._open_question(drop) if record.precision != "fp32" else None,
        )

    def _open_question(self, drop: Drop) -> str | None:
        bound = self._options.max_accuracy_drop
        if bound is None or not drop.value <= bound < drop.high:
            return None
        return (
            f"it holds max_accuracy_drop {bound:g} on the {drop.samples} samples held out; with "
            f"95 % confidence up to {drop.high:.4f} may be lost on others: more samples say more"
        )

    def _fault(self, record: Candidate, noise: Noise | None) -> str | None:
        bound, options = self._options.max_accuracy_drop, self._options
        if record.name == SOURCE:
            return None
        exact = record.precision == "fp32"  # which was held value by value
        if noise and noise.db is not None and noise.db < options.min_snr_db and not exact:
            what = f"a signal-to-noise ratio of {noise.db:.1f} dB to the source's"
            if noise.equal is not None:
                what = f"{noise.equal:.1%} of the source's ({noise.db:.1f} dB)"
            return (
                f"its answers in output {noise.output!r}{noise.channel} have {what}, min_snr_db is "
                f"{options.min_snr_db:g}"
            )
        if bound is not None and record.drop is not None and record.drop > bound:
            return f"{options.metric} drops by {record.drop:.4f}, max_accuracy_drop is {bound:g}"
        return None

    def _timed(self, record: Candidate, path: Path) -> Candidate:
        golden = self._evidence.golden
        record = dataclasses.replace(record, kind=self._kind)
        if record.name == SOURCE:
            times = interleave([self._model(path)], golden)
            return dataclasses.replace(
                record, latency_ms=statistics.median(times[0]), speedup=1.0, throughput=1.0
            )
        milliseconds, faster = latency(self._source, path, golden)
        return dataclasses.replace(
            record,
            latency_ms=milliseconds,
            speedup=faster,
            throughput=throughput(self._source, path, golden),
        )

    def _questions(self) -> list[Asked]:
        """Return what candidates are asked, with the source's answers."""
        if self._asked is None:
            source = self._model(self._source)
            self._asked = ask(source, self._evidence.golden, self._evidence.calibration)
        return self._asked
