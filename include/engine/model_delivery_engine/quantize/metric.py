"""The user's metric on the user's labelled samples, and how sure a drop in it is.

A metric scores each sample; higher is better. Models are compared sample by sample, so that the
interval of the difference is far narrower than those of the two scores.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_delivery_engine.errors import InferenceError, OptionsError, Reason
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.tensors import Array, TensorSpec

Score = Callable[[Array, Array], Array]
_Z95 = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Drop:
    """How much of a metric was lost: the mean over samples with its 95 % confidence interval.

    The interval is the normal one of paired differences. Where no sample changed it is the rule of
    three: up to 3/n of them may.
    """

    value: float
    low: float
    high: float
    samples: int


def drop_between(reference: Array, scores: Array) -> Drop:
    """Return what ``scores`` lose against ``reference``, both a score per sample."""
    differences = reference.astype(np.float64) - scores.astype(np.float64)
    count, mean = len(differences), float(differences.mean())
    if not differences.any():
        return Drop(0.0, -3 / count, 3 / count, count)
    spread = float(differences.std(ddof=1)) if count > 1 else abs(mean)
    margin = _Z95 * spread / math.sqrt(count)
    return Drop(mean, mean - margin, mean + margin, count)


def _accuracy(outputs: Array, labels: Array) -> Array:
    return np.asarray(_classes(outputs) == labels.reshape(len(labels)), np.float64)


def _top5(outputs: Array, labels: Array) -> Array:
    best = np.argsort(outputs.reshape(len(outputs), -1), axis=1)[:, -5:]
    return np.asarray((best == labels.reshape(-1, 1)).any(axis=1), np.float64)


def _classes(outputs: Array) -> Array:
    if outputs.dtype.kind != "f":
        return outputs.reshape(len(outputs))
    return np.asarray(outputs.reshape(len(outputs), -1).argmax(axis=1))


def _error(power: int) -> Score:
    def score(outputs: Array, labels: Array) -> Array:
        apart = np.abs(outputs.reshape(len(outputs), -1) - labels.reshape(len(labels), -1))
        return np.asarray(-(apart.astype(np.float64) ** power).mean(axis=1))

    return score


METRICS: dict[str, Score] = {
    "accuracy": _accuracy,
    "top5": _top5,
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

    def of(self, model: Model, samples: Samples) -> Array:
        """Return the score of each sample.

        :raises OptionsError: labels that the metric cannot hold against the output
        """
        if samples.labels is None:
            raise OptionsError(f"metric {self.name} needs labels", reason=Reason.SAMPLES_INVALID)
        batches = [model.run(batch)[self.output] for batch in samples.batches(model.batch_size)]
        outputs = np.concatenate(batches)
        try:
            scores = np.asarray(self.score(outputs, samples.labels[: len(outputs)]))
        except (ValueError, IndexError, InferenceError) as error:
            raise self._unfit(f"{error}") from error
        if scores.shape != (len(outputs),) or not np.isfinite(scores).all():
            raise self._unfit(f"scores of shape {list(scores.shape)}, or not finite")
        return scores

    def _unfit(self, why: str) -> OptionsError:
        return OptionsError(
            f"metric {self.name} cannot hold the labels against output {self.output!r} ({why}); "
            "check the shape of the labels, or name another output",
            reason=Reason.SAMPLES_INVALID,
        )


def make_metric(
    name: str, file: Path | None, output: str | None, outputs: tuple[TensorSpec, ...]
) -> Metric:
    """Return the metric that CompilerOptions names.

    :param name: one of `METRICS`, or the URI of an ONNX model with inputs ``outputs`` and
        ``labels`` and one output: a score for each sample, higher is better
    :param file: that model, fetched
    :param output: the model's output to read (default: the first of floating point, else the first)
    :raises OptionsError: an unknown metric or output, a metric's model that cannot be used
    """
    chosen = _output(output, outputs)
    if file is not None:
        return Metric(name, _from_model(file), chosen)
    if name not in METRICS:
        raise OptionsError(
            f"CompilerOptions: metric {name!r} is unknown; use one of {', '.join(METRICS)}, or the "
            "URI of an ONNX model of one"
        )
    return Metric(name, METRICS[name], chosen)


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
