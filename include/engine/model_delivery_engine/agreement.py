"""Whether a model agrees with the one it was made from, on every probe.

A value agrees within a thousandth of the largest magnitude around it and a thousandth of itself:
sums in another order cost single precision that much at most, at any magnitude. Around it is its
channel, since one tensor may hold boxes in pixels and their scores. A value beyond that is
explained where the original itself moves as far when its inputs move by their last bits (a step, a
tie, a difference of large numbers). One that nothing explains is a wrong answer.

A few moves do not turn every near-tie. So among what is drawn a few values of an output may be off
without an explanation of their own, no further than the original moves in that output, and no more
of them than values that it was seen to move. On golden inputs and the user's own samples none may;
and there few may need the explanation: where many do, the model cannot be computed from inputs of
this precision, whoever computes it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_delivery_engine import probes
from model_delivery_engine.errors import (
    EngineError,
    InferenceError,
    MemoryShortError,
    ParityError,
    PrecisionError,
    Reason,
    TimeShortError,
    one_line,
)
from model_delivery_engine.magnitudes import Magnitudes
from model_delivery_engine.measurements import Parity
from model_delivery_engine.probes import Answer, Probe, Run
from model_delivery_engine.ranking import Ranked, Ranking
from model_delivery_engine.tensors import Array, largest

# Distributions whose answers are the user's own samples.
OWN_SAMPLES = ("samples", "calibration")
_NOISES = 4.0  # how far beyond the noise that a few perturbations show rounding may go
# Of the values of an output: near-ties that no perturbation happened to turn.
_CHANCE = 1e-3
# Of an output's magnitude, usual or in a run: the last bits of its largest value, which are as good
# as zero beside it.
_NOTHING = 1e-6
# A sigmoid's or a softmax's: single precision's step at 1, which is what their kernels agree to. It
# is no more than a share of the most that an output has on any inputs, for those of another range.
_STEP, _SHARE = float(np.finfo(np.float32).eps), 1e-2
_MOST_EXPLAINED = 0.05  # on the user's samples
_ARGMAX_RANK = 2
_HALVES, _OTHERS, _MOST_HALVES = "halves", "signed", 0.2


@dataclass(frozen=True)
class Closeness:
    """How close an answer has to be.

    :param scale: of the largest magnitude in a run
    :param relative: of the value itself
    :param steps: what 8-bit integers may be apart
    :param channels: that magnitude is a channel's, not all of an output's
    """

    scale: float = 1e-3
    relative: float = 1e-3
    steps: int = 0
    channels: bool = True


CONVERTED = Closeness()
# Two forms of one graph on one runtime.
REWRITTEN = Closeness(1e-4, 1e-3)
# An original that computes in halves rounds at every layer to eleven bits; another form of it does
# elsewhere, some of those last bits away.
HALF_PRECISION = Closeness(5e-3, 5e-3)
# One that computes in 8 bits rounds to steps that all channels share.
QUANTISED = Closeness(5e-2, 2e-2, steps=6, channels=False)

# Takes a distribution, a run, and what a model answered to it. Returns both as they are where the
# two have chosen alike between scores that are as good as equal.
Settle = Callable[[str, Run, Mapping[str, Array]], tuple[Run, Mapping[str, Array]]]
_Answered = list[tuple[Run, Mapping[str, Array]]]


@dataclass
class _Tally:
    """The values of one output over the runs of a probe.

    :param compared: those that the original has a finite answer for
    :param moved: those that the original's own moves turned
    :param missed: off without an explanation, no further than the original moves elsewhere
    """

    values: int = 0
    compared: int = 0
    moved: int = 0
    explained: int = 0
    missed: int = 0
    wrong: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    worst: str = ""
    worst_excess: float = -1.0


def agree(
    answer: Answer,
    asked: Sequence[Probe],
    closeness: Closeness,
    optional: Collection[str] = (),
    *,
    may_refuse: bool = True,
    ranking: Ranking | None = None,
    settle: Settle | None = None,
) -> Parity:
    """Hold a model to the answers of the one it was made from.

    :param answer: runs the model
    :param optional: distributions on which it may differ, which is then said (default: none)
    :param may_refuse: it may fail on what is drawn beyond golden inputs, which is then said
    :param ranking: gives the scores behind places and labels; of equal ones either is right
        (default: only what the answers themselves show of it)
    :param settle: asked where a probe does not agree (default: the answers stand)
    :returns: the largest differences on golden inputs and the user's samples, which distributions
        were compared, and those that the model itself refuses though the original answers them:
        no wrong answer comes of a refusal
    :raises ParityError: a value that nothing explains, naming the largest difference; a refusal of
        golden inputs or of the user's samples, or no finite answer of the original to those;
        PrecisionError where rounding explains too many of the answers to those
    """
    proved, refused = [], []
    usual, most_of, around = _most(asked[:1]), _most(asked), Magnitudes(asked)
    shares: dict[str, dict[str, float]] = {}
    farthest, relative, values = 0.0, 0.0, 0
    agreements: list[float] = []
    compared = {name: 0 for probe in asked[:1] for run in probe.runs for name in run.expected}
    for probe in asked:
        answered = _answered(answer, probe, may_refuse)
        if isinstance(answered, str):
            refused.append(f"{probe.distribution}: {answered}")
            continue
        # The user's samples are what is usual.
        least = {} if probe.distribution in OWN_SAMPLES else usual
        judge = _Judge(probe.distribution, closeness, least, most_of, around, ranking)
        if settle is not None and judge.doubts(answered):
            answered = [settle(probe.distribution, run, got) for run, got in answered]
        if why := judge.why_not(answered, optional):
            refused.append(f"{probe.distribution}: {why}")
            continue
        tallies = judge.tallies
        for run, got in answered:
            agreements += _argmax_agreement(run.expected, got)
        for name, tally in tallies.items():
            compared[name] = compared.get(name, 0) + tally.compared
        shares[probe.distribution] = {n: t.explained / max(1, t.values) for n, t in tallies.items()}
        proved.append(probe.distribution)
        relative = max([relative, *(t.max_rel for t in tallies.values())])
        if not is_drawn(probe.distribution):  # elsewhere outputs are of any magnitude
            farthest = max([farthest, *(t.max_abs for t in tallies.values())])
        values += sum(max(map(_rows, run.expected.values()), default=1) for run in probe.runs)
    if _HALVES not in optional:
        _refuse_other_rounding(shares)
    refused += [
        f"output {n!r}: it was empty each time" for n, count in compared.items() if not count
    ]
    most = float(np.finfo(np.float64).max)
    return Parity(
        max_abs=min(farthest, most),
        max_rel=min(relative, most),
        argmax_agreement=float(np.mean(agreements)) if agreements else None,
        atol=closeness.scale,
        rtol=closeness.relative,
        samples=values,
        proved=tuple(proved),
        left_out=tuple(refused),
    )


def _answered(answer: Answer, probe: Probe, may_refuse: bool) -> _Answered | str:
    """Return the runs of a probe with a model's answers, or why it refused one and may."""
    try:
        return [(run, answer(run.inputs)) for run in probe.runs]
    except InferenceError as error:
        if may_refuse and is_drawn(probe.distribution):
            return one_line(error, 160)
        if isinstance(error, (MemoryShortError, TimeShortError)):
            raise
        raise ParityError(
            f"it fails on {_words(probe.distribution)}: {one_line(error, 300)}"
        ) from error


def _most(asked: Sequence[Probe]) -> dict[str, float]:
    """Return each output's largest magnitude on some probes; golden inputs are asked first."""
    found: dict[str, float] = {}
    for run in (run for probe in asked for run in probe.runs):
        for name, array in run.expected.items():
            found[name] = max(found.get(name, 0.0), largest(array))
    return found


def _rows(array: Array) -> int:
    return len(array) if array.ndim else 1


def is_drawn(distribution: str) -> bool:
    """Tell whether a distribution is drawn beyond golden inputs: a model may refuse those."""
    return distribution not in ("unit", *OWN_SAMPLES)


def _words(distribution: str) -> str:
    if distribution in OWN_SAMPLES:
        return f"the user's {distribution}"
    return f"inputs drawn {distribution!r}"


@dataclass(frozen=True)
class _Judge:
    """Compares the runs of one probe.

    :param usual: each output's largest magnitude on usual inputs
    :param most_of: the same on any inputs
    :param around: the largest magnitudes around values
    """

    distribution: str
    closeness: Closeness
    usual: Mapping[str, float]
    most_of: Mapping[str, float]
    around: Magnitudes
    ranking: Ranking | None
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def doubts(self, answered: _Answered) -> bool:
        """Compare all runs; tell whether some are wrong, or many only explained."""
        try:
            self.why_not(answered, ())
        except ParityError:
            return True
        tallies = self.tallies.values()
        return any(each.explained > _MOST_EXPLAINED * each.values for each in tallies)

    def why_not(self, answered: _Answered, optional: Collection[str]) -> str | None:
        """Compare all runs; return why they prove nothing, None where they do."""
        self.tallies.clear()
        try:
            for run, got in answered:
                self.compare(run, got)
            return _left_out(self.distribution, self.tallies)
        except ParityError as error:
            if self.distribution not in optional:
                raise
            return f"not proved, {error}"

    def compare(self, run: Run, got: Mapping[str, Array]) -> None:
        """Count what is off in a run; ParityError for an output of another shape."""
        ranked: Mapping[str, Ranked] | None = None
        for name, want in run.expected.items():
            tally = self.tallies.setdefault(name, _Tally())
            answer, noise = got.get(name), run.noise.get(name)
            if answer is None or answer.shape != want.shape:
                shape = "nothing" if answer is None else f"shape {list(answer.shape)}"
                raise ParityError(f"output {name!r} is {shape}, expected shape {list(want.shape)}")
            if noise is None or noise.shape != want.shape:
                noise = np.zeros(want.shape)
            whole = want.dtype in (np.int8, np.uint8) and self.closeness.steps
            if want.dtype.kind == "f" or whole:
                least = min(_STEP, _SHARE * self.most_of.get(name, 0.0))
                least += _NOTHING * max(self.usual.get(name, 0.0), largest(want))
                scale: Array | float = largest(want)
                if self.closeness.channels:
                    scale = self.around.around(name, run, self.distribution)
                _floats(name, answer, want, noise, self.closeness, scale, least, tally)
                continue
            unequal = _unequal(answer, want)
            moved = (noise > 0) | _tied(want, run.expected, self.closeness)
            if unequal.any() and self.ranking:
                ranked = self._ranked(run) if ranked is None else ranked
                if found := ranked.get(name):
                    as_good = found.as_good(answer, want, self.closeness.scale)
                    unequal, moved = self._excused(found, as_good, unequal, moved)
            tally.compared += want.size
            tally.moved += int(moved.sum())
            _count(name, answer, want, unequal, unequal & moved, unequal, tally)

    def _ranked(self, run: Run) -> Mapping[str, Ranked]:
        assert self.ranking is not None
        try:
            return self.ranking(run.inputs)
        except EngineError:
            return {}

    def _excused(
        self, found: Ranked, as_good: Array, unequal: Array, moved: Array
    ) -> tuple[Array, Array]:
        """Return what is still unequal, and what explains that.

        Scores that are held by themselves are right, and so is either place. Those that nobody sees
        may be alike because they are wrong: on golden inputs, where no model's all are, they excuse
        nothing, and elsewhere they explain.
        """
        if found.shown:
            return unequal & ~as_good, moved
        if self.distribution == probes.UNIT:
            return unequal, moved
        return unequal, moved | as_good


def _floats(
    name: str,
    got: Array,
    want: Array,
    noise: Array,
    closeness: Closeness,
    scale: Array | float,
    least: float,
    tally: _Tally,
) -> None:
    if not want.size:
        return
    whole = want.dtype.kind != "f"
    if not whole and got.dtype.kind == "f":
        # What an original in double precision answers beyond the range of single is infinite in it.
        with np.errstate(over="ignore"):
            rounded = want.astype(got.dtype)
        want = np.where(np.isinf(rounded), rounded, want)
    got, want = got.astype(np.float64), want.astype(np.float64)
    asked = ~np.isnan(want)  # where the original has no answer, any will do
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(got == want, 0.0, np.nan_to_num(np.abs(got - want), nan=np.inf))
        apart = np.where(asked, apart, 0.0)
        bound = closeness.relative * np.nan_to_num(np.abs(want), nan=0.0, posinf=0.0)
        bound = bound + (closeness.steps if whole else closeness.scale * scale)
        bound = bound + least
        typical = float(np.median(noise)) if noise.size else 0.0
        rounding = _NOISES * np.maximum(noise, typical if np.isfinite(typical) else 0.0)
    beyond = apart > bound
    # A NaN for a number is wrong, however the original moves.
    explained = beyond & (apart <= bound + rounding) & ~np.isnan(got)
    near = beyond & (apart <= bound + _NOISES * largest(noise)) & ~np.isnan(got)
    tally.compared += int(np.isfinite(want).sum())
    tally.moved += int((noise > bound).sum())
    _count(name, got, want, beyond, explained, near, tally, apart, bound)
    measured = apart[~explained & np.isfinite(apart)]
    tally.max_abs = max(tally.max_abs, float(measured.max(initial=0.0)))
    sized = ~explained & np.isfinite(want) & (np.abs(want) > closeness.scale * scale)
    if sized.any():
        tally.max_rel = max(tally.max_rel, float((apart[sized] / np.abs(want[sized])).max()))


def _count(
    name: str,
    got: Array,
    want: Array,
    beyond: Array,
    explained: Array,
    near: Array,
    tally: _Tally,
    apart: Array | None = None,
    bound: Array | None = None,
) -> None:
    wrong = beyond & ~explained
    tally.values += want.size
    tally.explained += int(explained.sum())
    tally.missed += int((wrong & near).sum())
    tally.wrong += int((wrong & ~near).sum())
    if not wrong.any():
        return
    if apart is None or bound is None:
        at = int(np.argmax(wrong))
        excess, text = 1.0, f"{got.flat[at]} where {want.flat[at]} is expected"
    else:
        over = np.where(wrong, apart - bound, -1.0)
        at = int(np.argmax(over))
        excess = float(over.flat[at])
        text = (
            f"{got.flat[at]:.6g} where {want.flat[at]:.6g} is expected, a difference of "
            f"{apart.flat[at]:.3g} (allowed {bound.flat[at]:.3g})"
        )
    if not np.isfinite(excess) or excess > tally.worst_excess:
        tally.worst_excess, tally.worst = excess, f"output {name!r}: {text}"


def _unequal(got: Array, want: Array) -> Array:
    if want.dtype.kind in "OUS":
        return np.asarray(got.astype(str) != want.astype(str))
    return np.asarray(got.astype(want.dtype) != want)


def _tied(want: Array, expected: Mapping[str, Array], closeness: Closeness) -> Array:
    """Return where labels name one of two classes whose scores are as good as equal.

    A forest of an even number of trees ties exactly; either class is then a right answer.
    """
    tied = np.zeros(want.shape, bool)
    if not want.ndim or want.size != len(want):
        return tied
    for scores in expected.values():
        classes = scores.ndim == _ARGMAX_RANK and scores.shape[-1] > 1
        if scores.dtype.kind == "f" and classes and len(scores) == len(want):
            best = np.sort(scores.astype(np.float64), axis=1)[:, -2:]
            margin = closeness.scale * max(float(np.abs(best).max(initial=0.0)), 1e-30)
            tied |= (best[:, 1] - best[:, 0] <= margin).reshape(want.shape)
    return tied


def _left_out(distribution: str, tallies: Mapping[str, _Tally]) -> str | None:
    """Return why a distribution proves nothing, None where it does; raise for a wrong answer."""
    _refuse_wrong(distribution, tallies)
    why = _unanswered(tallies)
    if why and not is_drawn(distribution):
        raise ParityError(
            f"on {_words(distribution)} {why}, so that nothing is proved there; look for a "
            "division by zero, a logarithm or an overflow in the model",
            reason=Reason.OUTPUT_NAN,
        )
    return why


def _unanswered(tallies: Mapping[str, _Tally]) -> str | None:
    for name, tally in tallies.items():
        if tally.values and not tally.compared:
            return f"output {name!r} of the original has no finite value"
    return None


def _refuse_wrong(distribution: str, tallies: Mapping[str, _Tally]) -> None:
    """Raise ParityError for the output that is furthest off, if one is."""
    failed = []
    for tally in tallies.values():
        chance = min(_CHANCE * tally.values, tally.moved) if is_drawn(distribution) else 0
        if tally.wrong or tally.missed > chance or not _finite(tally.worst_excess):
            failed.append(tally)
    if failed:
        worst = max(failed, key=lambda tally: tally.worst_excess)
        raise ParityError(
            f"on {_words(distribution)} {worst.worst}; {worst.wrong + worst.missed} of "
            f"{worst.values} values are off, and nothing explains it"
        )
    if distribution not in OWN_SAMPLES:
        return
    for name, tally in tallies.items():
        if tally.explained > _MOST_EXPLAINED * tally.values:
            raise PrecisionError(
                f"on the user's {distribution} {tally.explained} of {tally.values} values of "
                f"output {name!r} are off, as far as the original's own move with the last bits "
                "of its inputs in single precision: subtract what all samples have in common (a "
                'year, an offset) before the model, or for scikit-learn set "dtype": "float64"'
            )


def _refuse_other_rounding(shares: Mapping[str, Mapping[str, float]]) -> None:
    """Raise ParityError for an operator that rounds halfway points another way.

    Each such point is a step, which explains a difference anywhere; so many of them, and none among
    other numbers, are another rule.
    """
    for name, share in shares.get(_HALVES, {}).items():
        if share > _MOST_HALVES and shares.get(_OTHERS, {}).get(name, 1.0) < _CHANCE:
            raise ParityError(
                f"output {name!r}: {share:.0%} of the values differ at halfway points, and none at "
                "other numbers: they are rounded another way"
            )


def _finite(value: float) -> bool:
    return bool(np.isfinite(value))


def _argmax_agreement(expected: Mapping[str, Array], got: Mapping[str, Array]) -> list[float]:
    """Agreement of each row over the outputs that score classes."""
    rows: list[float] = []
    for name, want in expected.items():
        if want.dtype.kind == "f" and want.ndim > 1 and want.shape[-1] > 1:
            rows += (got[name].argmax(axis=-1) == want.argmax(axis=-1)).ravel().tolist()
    return rows
