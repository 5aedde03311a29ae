"""Bias correction: what rounded weights add to an output on average is taken out of the bias.

Rounding moves each weight a little. Where an operator's inputs are not zero on average, these
errors add up to a shift of the output channel: their product with the mean input. Calibration
samples tell that mean, and a bias that is less by the shift costs nothing when the model runs.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019),
section 4.2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from model_delivery_engine import weights
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.rewrite.graph import Graph, attribute
from model_delivery_engine.runtime import open_session
from model_delivery_engine.tensors import Array

# Of a transposed convolution, each place of the output has another part of the kernel.
_CORRECTED = ("Conv", "Gemm", "MatMul")
_MEAN = "{}:mean"


def measure_shifts(
    source: Path, quantised: Path, samples: Samples, batch_size: int | None
) -> dict[str, Array]:
    """Return by how much rounded weights shift outputs: [channels] for each operator's name.

    :param source: the model that ``quantised`` was made from, every node named
    :param samples: that its inputs' means are taken over
    :param batch_size: samples in a run, None where any number will do
    """
    plain, rounded = _graph(source), _graph(quantised)
    twins = {node.name: node for node in rounded.nodes}
    nodes = [
        node
        for node in plain.nodes
        if plain.is_a(node, *_CORRECTED)
        and node.name in twins
        and _read_back(rounded, twins[node.name].input[1]) is not None
        and _bias(plain, node) is not None
    ]
    if not nodes:
        return {}
    means = _means(source, plain, nodes, samples, batch_size)
    shifts = {}
    for node in nodes:
        weight = plain.constant(node.input[1])
        read = _read_back(rounded, twins[node.name].input[1])
        if weight is None or read.shape != weight.shape:
            continue
        shift = _shift(node, read - weight, means[node.input[0]]).astype(np.float32)
        if np.isfinite(shift).all():
            shifts[node.name] = shift
    return shifts


def correct_biases(source: Path, into: Path, shifts: Mapping[str, Array]) -> None:
    """Write the model with biases that are less by these shifts.

    :param into: in the folder of ``source``, whose weights it shares
    """
    graph = _graph(source)
    for node in [each for each in graph.nodes if each.name in shifts]:
        found = _bias(graph, node)
        assert found is not None
        holder, place, bias = found
        name = graph.add_constant(f"{node.name}:bias", bias - shifts[node.name])
        if place < len(holder.input):
            holder.input[place] = name
        else:
            holder.input.append(name)
    onnx.save(graph.finish(), into)


def distance(source: Path, quantised: Path, samples: Samples, batch_size: int | None) -> float:
    """Return how far a model's answers are from the source's: a share of what they vary by.

    The mean over outputs of floats; 0 where there is none.
    """
    sessions = [open_session(path, unoptimised_options()) for path in (source, quantised)]
    names = [each.name for each in sessions[0].get_outputs() if each.type == "tensor(float)"]
    if not names:
        return 0.0
    off, varied = np.zeros(len(names)), np.zeros(len(names))
    for batch in samples.batches(batch_size):
        want, got = (session.run(names, batch) for session in sessions)
        for n in range(len(names)):
            off[n] += np.sum((got[n].astype(np.float64) - want[n]) ** 2)
            varied[n] += want[n].var(dtype=np.float64) * want[n].size
    return float((off / np.maximum(varied, np.finfo(float).tiny)).mean())


def _graph(path: Path) -> Graph:
    return Graph(weights.skeleton(path), path.parent)


def _bias(graph: Graph, node: Any) -> tuple[Any, int, Array] | None:
    """Return the node that adds an operator's bias, which input that is, and the bias itself.

    None where the bias is no constant of one value for each channel, or there is no room for one.
    """
    weight = graph.constant(node.input[1])
    if weight is None or weight.dtype != np.float32:
        return None
    holder, place = node, 2
    if node.op_type == "Conv":
        channels = weight.shape[0]
    elif weight.ndim != 2 or not _is_plain(node):
        return None
    else:
        channels = weight.shape[0 if attribute(node, "transB", 0) else 1]
    if node.op_type == "MatMul":
        holder = graph.only_taker(node.output[0], "Add")
        if holder is None or not (parts := graph.split(holder)):
            return None
        place = list(holder.input).index(parts[1])
    if place >= len(holder.input) or not holder.input[place]:
        return holder, place, np.zeros(channels, np.float32)
    bias = graph.constant(holder.input[place])
    if bias is None or bias.dtype != np.float32:
        return None
    if bias.shape not in ((), (1,), (channels,)):
        return None
    return holder, place, np.broadcast_to(bias, channels)


def _is_plain(node: Any) -> bool:
    """Whether a product is of its inputs as they are, so that a mean of them is known."""
    scaled = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)) != (1.0, 1.0)
    return not scaled and not attribute(node, "transA", 0)


def _read_back(graph: Graph, tensor: str) -> Any:
    """Return a weight as its integers stand for it, None for one that is none."""
    node = graph.maker(tensor, "DequantizeLinear")
    if node is None:
        return None
    integers, scale, zero = (graph.constant(name) for name in [*node.input, ""][:3])
    if integers is None or scale is None:
        return None
    shape = [1] * integers.ndim
    if scale.size > 1:
        shape[attribute(node, "axis", 1)] = -1
    offset = 0 if zero is None else zero.astype(np.float32).reshape(shape)
    found: Array = (integers.astype(np.float32) - offset) * scale.reshape(shape)
    return found


def _shift(node: Any, errors: Array, mean: Array) -> Array:
    """Return the mean output of a weight's errors.

    :param mean: of the operator's input, by channel
    """
    if node.op_type != "Conv":
        return errors @ mean if attribute(node, "transB", 0) else mean @ errors
    groups = attribute(node, "group", 1)
    kernels = errors.reshape(*errors.shape[:2], -1).sum(axis=2)
    by_group = kernels.reshape(groups, -1, kernels.shape[1])
    found: Array = np.einsum("goi,gi->go", by_group, mean.reshape(groups, -1)).ravel()
    return found


def _means(
    source: Path, graph: Graph, nodes: list[Any], samples: Samples, batch_size: int | None
) -> dict[str, Array]:
    """Return the mean of each operator's input over the samples: [channels].

    The model reckons them itself: whole activations of all layers may be more than the memory.
    """
    tensors = {node.input[0]: node for node in nodes}
    for tensor, node in tensors.items():
        channels_second = tensor
        if node.op_type != "Conv":
            taken = (graph.shape(node.input[1]) or ())[1 if attribute(node, "transB", 0) else 0]
            shape = graph.add_constant(f"{tensor}:shape", np.array([1, -1, taken]))
            graph.add_node("Reshape", [tensor, shape], f"{tensor}:rows")
            channels_second = f"{tensor}:columns"
            graph.add_node("Transpose", [f"{tensor}:rows"], channels_second, perm=[0, 2, 1])
        graph.add_node("GlobalAveragePool", [channels_second], _MEAN.format(tensor))
    model = graph.finish()
    names = [_MEAN.format(tensor) for tensor in tensors]
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
    inner = source.with_name(f"{source.stem}.means.onnx")  # where its weights are
    onnx.save(model, inner)
    session = open_session(inner, unoptimised_options())
    sums, count = [np.zeros(1)] * len(names), 0
    for batch in samples.batches(batch_size):
        found = session.run(names, batch)
        size = len(next(iter(batch.values())))
        sums = [
            total + size * each.astype(np.float64).mean(axis=0).ravel()
            for total, each in zip(sums, found, strict=True)
        ]
        count += size
    return dict(zip(tensors, (total / count for total in sums), strict=True))
