"""Accuracy-bounded quantisation: operators go back to floating point until the bound holds.

After NNCF's ``quantize_with_accuracy_control``. Operators are ranked by the noise that each adds to
its own output; the worst go back in growing numbers until the metric holds, then as many as can be
spared are quantised again. Whatever was best on the way is the result, also where no choice held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from model_delivery_engine import weights
from model_delivery_engine.errors import CompilationError, Reason, one_line
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.quantize.integers import (
    WEIGHTED,
    StaticQuantizer,
    weighted_nodes,
)
from model_delivery_engine.quantize.metric import Drop
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import RUNTIME_ERRORS, open_session
from model_delivery_engine.tensors import Array

RANKING_SAMPLES = 8
_IMAGE_RANK = 4
Measure = Callable[[Path], Drop]


@dataclass(frozen=True)
class Bounded:
    """What the search found.

    :param reverted: operators kept in floating point, worst first
    :param drop: what the metric loses with them so
    :param holds: whether that is within the bound
    :param trials: models that were quantised and measured
    """

    path: Path
    reverted: tuple[str, ...]
    drop: Drop
    holds: bool
    trials: int


def quantize_bounded(
    quantizer: StaticQuantizer,
    samples: Samples,
    max_drop: float,
    measure: Measure,
    folder: Path,
) -> Bounded:
    """Quantise as much as the bound on the metric allows.

    :param samples: to rank operators on; a few are enough
    :param max_drop: how much the metric may lose
    :param measure: what a model's metric loses against the source
    :param folder: for the models tried, made here
    """
    folder.mkdir()
    trials: dict[int, Bounded] = {}

    def attempt(count: int, ranked: Sequence[str]) -> Bounded:
        if count not in trials:
            path = folder / f"{count}.onnx"
            quantizer.quantize(path, keep=with_neighbours(quantizer.source, ranked[:count]))
            drop = measure(path)
            found = Bounded(path, tuple(ranked[:count]), drop, drop.value <= max_drop, 0)
            trials[count] = found
        return trials[count]

    whole = attempt(0, [])
    if whole.holds:
        return _numbered(whole, len(trials))
    ranked = rank_operators(quantizer.source, whole.path, samples.some(RANKING_SAMPLES))
    # With every operator reverted it would be the source model again under another name.
    most = len(ranked) - 1
    low, high = 0, min(1, most)
    while high < most and not attempt(high, ranked).holds:
        low, high = high, min(high * 2, most)
    if most < 1 or not attempt(high, ranked).holds:
        best = min(trials.values(), key=lambda each: each.drop.value)
        return _numbered(best, len(trials))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(middle, ranked).holds else (middle, high)
    return _numbered(trials[high], len(trials))


def _numbered(found: Bounded, trials: int) -> Bounded:
    return Bounded(found.path, found.reverted, found.drop, found.holds, trials)


def rank_operators(source: Path, quantised: Path, samples: Samples) -> list[str]:
    """Return the weighted operators, the one that adds most noise first.

    The noise an operator adds is its output's share of noise less that of its input, both against
    the same tensors of the source.
    """
    nodes = weighted_nodes(source)
    if not nodes:  # a runtime that is asked for no tensor answers with every output
        return []
    graph = weights.skeleton(source).graph
    by_name = {node.name: node for node in graph.node}
    ends = {name: (by_name[name].input[0], by_name[name].output[0]) for name in nodes}
    tensors = sorted({tensor for pair in ends.values() for tensor in pair})
    noise = _noise(_tensors(source, tensors, samples), _tensors(quantised, tensors, samples))
    added = {
        name: noise.get(after, 0.0) - noise.get(before, 0.0)
        for name, (before, after) in ends.items()
    }
    return sorted(nodes, key=lambda name: -added[name])


def with_neighbours(source: Path, names: Sequence[str]) -> list[str]:
    """Return operators and what lies between them and the next weighted ones.

    An activation left in integers beside a reverted operator would keep the noise that reverting it
    is to remove.
    """
    nodes = weights.skeleton(source).graph.node
    makers = {output: node for node in nodes for output in node.output}
    users: dict[str, list[Any]] = {}
    for node in nodes:
        for tensor in node.input:
            users.setdefault(tensor, []).append(node)
    kept = dict.fromkeys(names)
    waiting = [node for node in nodes if node.name in kept]
    while waiting:
        node = waiting.pop()
        beside = [makers[tensor] for tensor in node.input if tensor in makers]
        beside += [user for tensor in node.output for user in users.get(tensor, [])]
        for each in beside:
            if each.op_type not in WEIGHTED and each.name not in kept:
                kept[each.name] = None
                waiting.append(each)
    return list(kept)


def _noise(clean: dict[str, Array], noisy: dict[str, Array]) -> dict[str, float]:
    """Return each tensor's share of noise: of each channel, then the mean over channels.

    A channel far larger than the others would hide what happens to them in a sum over all.
    """
    shares = {}
    for name in clean.keys() & noisy.keys():
        want = _by_channel(clean[name].astype(np.float64))
        got = _by_channel(noisy[name].astype(np.float64))
        signal = (want**2).mean(axis=1)
        alive = signal > 0
        share = ((got - want) ** 2).mean(axis=1)[alive] / signal[alive]
        shares[name] = float(np.minimum(share, 1.0).mean()) if alive.any() else 0.0
    return shares


def _by_channel(array: Array) -> Array:
    """Return a row for each channel: the second dimension of images, the last of anything else."""
    axis = 1 if array.ndim == _IMAGE_RANK else array.ndim - 1
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _tensors(path: Path, names: Sequence[str], samples: Samples) -> dict[str, Array]:
    """Run a model with inner tensors as outputs."""
    model = weights.skeleton(path)
    made = {name for node in model.graph.node for name in node.output}
    there = {node.name for node in model.graph.output}
    wanted = [name for name in names if name in made]
    for name in wanted:
        if name not in there:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    inner = path.with_name(f"{path.stem}.inner.onnx")  # where its weights are
    onnx.save(model, inner)
    session = open_session(inner, unoptimised_options())
    batch = next(samples.batches(_batch_size(session)))
    try:
        found = session.run(wanted, batch)
    except RUNTIME_ERRORS as error:
        raise CompilationError(
            f"{path.name} does not run with its inner tensors as outputs: {one_line(error, 200)}",
            reason=Reason.OPERATOR_UNSUPPORTED,
        ) from error
    return dict(zip(wanted, found, strict=True))


def _batch_size(session: Any) -> int | None:
    sizes = [node.shape[0] for node in session.get_inputs() if node.shape]
    return next((size for size in sizes if isinstance(size, int)), None)
