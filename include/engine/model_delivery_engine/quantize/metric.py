"""The user's metric on the user's labelled samples, and how sure a drop in it is.

A metric scores each sample; higher is better. Models are compared sample by sample, so that the
interval of the difference is far narrower than those of the two scores.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_delivery_engine.errors import InferenceError, OptionsError, Reason
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.tensors import Array, TensorSpec

Score = Callable[[Array, Array], Array]
_Z95 = 1.959964  # two-sided 95 % of the normal distribution
_Z95_ONE_SIDED = 1.644854
_TOP = 5
_STEP = 1e-9  # of an interval's end


@dataclass(frozen=True)
class Drop:
    """How much of a metric was lost: the mean over samples with its 95 % confidence interval.

    Where each sample is right or wrong it is Tango's score interval of paired shares, which knows
    that what no sample shows may still happen: each sample that is lost moves it up, from the
    first. Of other scores it is the normal one of paired differences.
    """

    value: float
    low: float
    high: float
    samples: int


def drop_between(reference: Array, scores: Array) -> Drop:
    """Return what ``scores`` lose against ``reference``, both a score per sample."""
    differences = reference.astype(np.float64) - scores.astype(np.float64)
    count, mean = len(differences), float(differences.mean())
    if reference.any() and _is_right_or_wrong(reference) and _is_right_or_wrong(scores):
        lost, gained = int((differences > 0).sum()), int((differences < 0).sum())
        low = -_upper_end(gained, lost, count)
        return Drop(mean, low, _upper_end(lost, gained, count), count)
    spread = float(differences.std(ddof=1)) if count > 1 else abs(mean)
    margin = _Z95 * spread / math.sqrt(count)
    return Drop(mean, mean - margin, mean + margin, count)


def _is_right_or_wrong(scores: Array) -> bool:
    return bool(np.isin(scores, (0, 1)).all())


def _upper_end(lost: int, gained: int, count: int) -> float:
    """Return the upper end of Tango's 95 % interval of (lost - gained) / count (Tango 1998).

    It is the largest difference that the samples do not contradict: their own lies within 1.96
    standard deviations of it, which are those of the likeliest shares that differ by so much.
    """

    def is_possible(difference: float) -> bool:
        linear = (2 * count - lost + gained) * difference - lost - gained
        constant = -gained * difference * (1 - difference)
        # The likeliest share of gained ones, the larger root of 2n q² + linear q + constant.
        root = math.sqrt(max(0.0, linear**2 - 8 * count * constant))
        share = (root - linear) / (4 * count)
        variance = count * (2 * share + difference * (1 - difference))
        return (lost - gained - count * difference) ** 2 <= _Z95**2 * variance

    low, high = (lost - gained) / count, 1.0
    if is_possible(high):
        return high
    while high - low > _STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if is_possible(middle) else (low, middle)
    return low


class _Misfit(Exception):
    """Labels that cannot be held against an output; says why and what to do."""


def _rows(outputs: Array) -> Array:
    """Return scores as one row a sample; what has further dimensions is no classifier's."""
    if outputs.ndim > 1 and outputs.size != len(outputs) * outputs.shape[1]:
        raise _Misfit(
            f"a sample's output has shape {list(outputs.shape[1:])}, not one score a class; give "
            'a metric of your own: the URI of an ONNX model as "metric"'
        )
    return outputs.reshape(len(outputs), -1)


def _column(labels: Array) -> Array:
    if labels.size != len(labels):
        raise _Misfit(
            f"the labels have shape {list(labels.shape)}, not one class a sample; give the number "
            "of the class, or a metric of your own"
        )
    return labels.reshape(len(labels))


def _numbers(labels: Array, classes: int) -> Array:
    """Return labels as positions in a row of scores."""
    column = _column(labels)
    if column.dtype.kind not in "iufb" or not (column == np.floor(column)).all():
        raise _Misfit(
            f"the labels are {_sample_of(column)}, the output has a score for each of {classes} "
            "classes: give the position of the right one, from 0, or name an output that answers "
            "such labels"
        )
    low, high = int(column.min()), int(column.max())
    if low < 0 or high >= classes:
        raise _Misfit(
            f"the labels go from {low} to {high}, the output has {classes} scores: give the "
            f"position of the right one, 0 to {classes - 1}"
        )
    return column.astype(np.int64)


def _sample_of(values: Array) -> str:
    return ", ".join(repr(each) for each in np.unique(values)[:3].tolist())


@dataclass(frozen=True)
class _Accuracy:
    """Accuracy as the reference's answers show that it has to be read.

    :param threshold: of the one score of a classifier of two classes; None where there are more
    """

    threshold: float | None = None

    def fit(self, outputs: Array, labels: Array) -> "_Accuracy":
        if outputs.dtype.kind != "f":
            return self
        rows = _rows(outputs)
        if rows.shape[1] > 1:
            return self
        # Probabilities lie in [0, 1]; logits leave it.
        return _Accuracy(0.5 if ((rows >= 0) & (rows <= 1)).all() else 0.0)

    def __call__(self, outputs: Array, labels: Array) -> Array:
        if outputs.dtype.kind != "f":
            return np.asarray(_same(_column(outputs), _column(labels)), np.float64)
        rows = _rows(outputs)
        if rows.shape[1] > 1:
            right = rows.argmax(axis=1) == _numbers(labels, rows.shape[1])
            return np.asarray(right, np.float64)
        threshold = 0.5 if self.threshold is None else self.threshold
        return np.asarray((rows[:, 0] > threshold) == _binary(labels), np.float64)

    def chance(self, labels: Array) -> float:
        return _most_frequent(labels, 1)


def _same(answers: Array, labels: Array) -> Array:
    texts = ("O", "U", "S")
    if (answers.dtype.kind in texts) != (labels.dtype.kind in texts):
        raise _Misfit(
            f"the model answers {_sample_of(answers)}, the labels are {_sample_of(labels)}; give "
            "labels as the model answers them"
        )
    if answers.dtype.kind in texts:
        return np.asarray(answers.astype(str) == labels.astype(str))
    return np.asarray(answers == labels)


def _binary(labels: Array) -> Array:
    column = _column(labels)
    values = set(np.unique(column).tolist()) if column.dtype.kind in "iufb" else {None}
    if not (values <= {0, 1} or values <= {-1, 1}):
        raise _Misfit(
            f"the output is one score a sample, the labels are {_sample_of(column)}; give 0 and 1, "
            "or metric mae or mse where the score is no class"
        )
    return column > 0


@dataclass(frozen=True)
class _Top5:
    def fit(self, outputs: Array, labels: Array) -> "_Top5":
        return self

    def __call__(self, outputs: Array, labels: Array) -> Array:
        rows = _rows(outputs)
        if rows.shape[1] <= _TOP:
            raise _Misfit(f"the output has {rows.shape[1]} scores, any of which is in the best 5")
        wanted = _numbers(labels, rows.shape[1])
        best = np.argsort(rows, axis=1)[:, -_TOP:]
        return np.asarray((best == wanted[:, None]).any(axis=1), np.float64)

    def chance(self, labels: Array) -> float:
        return _most_frequent(labels, _TOP)


def _most_frequent(labels: Array, count: int) -> float:
    """Return the share of the most frequent labels: what an answer of them alone always gets."""
    times = np.unique(_column(labels), return_counts=True)[1]
    return float(np.sort(times)[-count:].sum()) / len(labels)


def _error(power: int) -> Score:
    def score(outputs: Array, labels: Array) -> Array:
        wanted = labels.reshape(len(labels), -1)
        if wanted.shape[1] != outputs.reshape(len(outputs), -1).shape[1]:
            raise _Misfit(
                f"a sample's output has shape {list(outputs.shape[1:])}, its label "
                f"{list(labels.shape[1:])}; give labels of the output's shape"
            )
        apart = np.abs(outputs.reshape(len(outputs), -1) - wanted)
        return np.asarray(-(apart.astype(np.float64) ** power).mean(axis=1))

    return score


METRICS: dict[str, Score] = {
    "accuracy": _Accuracy(),
    "top5": _Top5(),
    "mae": _error(1),
    "mse": _error(2),
}


@dataclass(frozen=True)
class Metric:
    """A metric ready to score a model's runs.

    :param output: the model's output that it reads
    """

    name: str
    score: Score
    output: str

    def fitted(self, outputs: Array, labels: Array) -> "Metric":
        """Return the metric as the reference's answers show that it is to be read.

        :raises OptionsError: labels that do not fit, or that the reference answers no better than
            one who knows how frequent they are: whatever is lost against that is lost unseen
        """
        if not isinstance(self.score, (_Accuracy, _Top5)):
            return self
        try:
            fitted = dataclasses.replace(self, score=self.score.fit(outputs, labels))
            chance = self.score.chance(labels)
        except _Misfit as error:
            raise self._unfit(str(error)) from error
        reached = float(fitted.scores(outputs, labels).mean())
        needed = chance + _Z95_ONE_SIDED * math.sqrt(chance * (1 - chance) / len(labels))
        if reached <= max(chance, min(needed, 1 - 1e-9)):
            raise OptionsError(
                f"metric {self.name}: the model itself reaches {reached:.4f} on {len(labels)} "
                f"labelled samples, and guessing {chance:.4f} (up to {needed:.4f} by luck), since "
                "that is the share of the most frequent labels: a loss could not be seen; check "
                f"what the labels mean to output {self.output!r}, or give more samples",
                reason=Reason.SAMPLES_INVALID,
            )
        return fitted

    def of(self, model: Model, samples: Samples) -> Array:
        """Return the score of each sample.

        :raises OptionsError: labels that the metric cannot hold against the output
        """
        if samples.labels is None:
            raise OptionsError(f"metric {self.name} needs labels", reason=Reason.SAMPLES_INVALID)
        batches = samples.batches(model.batch_size)
        return self.scores(self.gathered(model.run(batch) for batch in batches), samples.labels)

    def gathered(self, runs: Iterable[dict[str, Array]]) -> Array:
        """Return the output that the metric reads, of all runs."""
        return np.concatenate([run[self.output] for run in runs])

    def scores(self, outputs: Array, labels: Array) -> Array:
        """Return the score of each answer; labels beyond the answers are left out.

        :raises OptionsError: labels that the metric cannot hold against the output
        """
        try:
            scores = np.asarray(self.score(outputs, labels[: len(outputs)]))
        except (_Misfit, ValueError, IndexError, InferenceError) as error:
            raise self._unfit(f"{error}") from error
        if scores.shape != (len(outputs),) or not np.isfinite(scores).all():
            raise self._unfit(
                f"scores of shape {list(scores.shape)}, or not finite; check the labels' shape"
            )
        return scores

    def _unfit(self, why: str) -> OptionsError:
        return OptionsError(
            f"metric {self.name} cannot hold the labels against output {self.output!r}: {why}",
            reason=Reason.SAMPLES_INVALID,
        )


def make_metric(
    name: str, file: Path | None, output: str | None, outputs: tuple[TensorSpec, ...]
) -> Metric:
    """Return the metric that CompilerOptions names.

    :param name: one of `METRICS`, or the URI of an ONNX model with inputs ``outputs`` and
        ``labels`` and one output: a score for each sample, higher is better
    :param file: that model, fetched
    :param output: the model's output to read (default: for accuracy a classifier's own labels,
        otherwise the first of floating point, else the first)
    :raises OptionsError: an unknown metric or output, a metric's model that cannot be used
    """
    if file is not None:
        return Metric(name, _from_model(file), _output(output, outputs))
    if name not in METRICS:
        raise OptionsError(
            f"CompilerOptions: metric {name!r} is unknown; use one of {', '.join(METRICS)}, or the "
            "URI of an ONNX model of one"
        )
    labels = _label_output(outputs) if name == "accuracy" and output is None else None
    return Metric(name, METRICS[name], labels or _output(output, outputs))


def _label_output(outputs: Sequence[TensorSpec]) -> str | None:
    """Return a classifier's own labels: they know what its classes are called."""
    labels = [
        spec.name
        for spec in outputs
        if not spec.dtype.startswith("FP") and tuple(spec.shape[1:]) in ((), (1,)) and spec.shape
    ]
    scores = [spec for spec in outputs if spec.dtype.startswith("FP")]
    return labels[0] if len(labels) == 1 and len(scores) == 1 and len(outputs) == 2 else None


def _output(name: str | None, outputs: tuple[TensorSpec, ...]) -> str:
    names = [spec.name for spec in outputs]
    if name is None:
        floats = [spec.name for spec in outputs if spec.dtype.startswith("FP")]
        return (floats or names)[0]
    if name not in names:
        raise OptionsError(
            f"CompilerOptions: output {name!r} is none of the model's, which are {', '.join(names)}"
        )
    return name


def _from_model(file: Path) -> Score:
    try:
        model = Model(open_session(file, session_options(1)), file.name)
    except InferenceError as error:
        raise OptionsError(f"metric: {error}", reason=Reason.SAMPLES_INVALID) from error
    if {spec.name for spec in model.inputs} != {"outputs", "labels"} or len(model.outputs) != 1:
        raise OptionsError(
            f"metric {file.name} must take 'outputs' and 'labels' and return one score per sample",
            reason=Reason.SAMPLES_INVALID,
        )
    return lambda outputs, labels: next(
        iter(model.run({"outputs": outputs, "labels": labels}).values())
    )
