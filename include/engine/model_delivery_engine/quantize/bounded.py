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

from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.quantize.integers import StaticQuantizer, weighted_nodes
from model_delivery_engine.quantize.metric import Drop
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import open_session
from model_delivery_engine.tensors import Array

RANKING_SAMPLES = 8
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
            quantizer.quantize(path, keep=ranked[:count])
            drop = measure(path)
            found = Bounded(path, tuple(ranked[:count]), drop, drop.value <= max_drop, 0)
            trials[count] = found
        return trials[count]

    whole = attempt(0, [])
    if whole.holds:
        return _numbered(whole, len(trials))
    ranked = rank_operators(quantizer.source, whole.path, samples.first(RANKING_SAMPLES))
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
    graph = onnx.load(source, load_external_data=False).graph
    by_name = {node.name: node for node in graph.node}
    ends = {name: (by_name[name].input[0], by_name[name].output[0]) for name in nodes}
    tensors = sorted({tensor for pair in ends.values() for tensor in pair})
    noise = _noise(_tensors(source, tensors, samples), _tensors(quantised, tensors, samples))
    added = {
        name: noise.get(after, 0.0) - noise.get(before, 0.0)
        for name, (before, after) in ends.items()
    }
    return sorted(nodes, key=lambda name: -added[name])


def _noise(clean: dict[str, Array], noisy: dict[str, Array]) -> dict[str, float]:
    shares = {}
    for name in clean.keys() & noisy.keys():
        want = clean[name].astype(np.float64)
        signal = float((want**2).mean()) or 1.0
        shares[name] = float(((noisy[name] - want) ** 2).mean()) / signal
    return shares


def _tensors(path: Path, names: Sequence[str], samples: Samples) -> dict[str, Array]:
    """Run a model with inner tensors as outputs."""
    model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output}
    there = {node.name for node in model.graph.output}
    wanted = [name for name in names if name in made]
    for name in wanted:
        if name not in there:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = open_session(model.SerializeToString(), unoptimised_options())
    batch = next(samples.batches(_batch_size(session)))
    return dict(zip(wanted, session.run(wanted, batch), strict=True))


def _batch_size(session: Any) -> int | None:
    sizes = [node.shape[0] for node in session.get_inputs() if node.shape]
    return next((size for size in sizes if isinstance(size, int)), None)
