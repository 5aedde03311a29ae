"""Graphs rewritten into forms that ONNX Runtime has one kernel for, where it sees none by itself.

Exporters take apart what frameworks compute in one step. Each pass puts one such form together
again; what it computes stays the same to the rounding of single precision, which parity with the
source's answers is held to.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from model_delivery_engine import weights
from model_delivery_engine.rewrite.affine import fold_affine
from model_delivery_engine.rewrite.embedding import one_hot_to_gather, sink_gathers
from model_delivery_engine.rewrite.gate import merge_gate
from model_delivery_engine.rewrite.gelu import fuse_gelu
from model_delivery_engine.rewrite.graph import Graph
from model_delivery_engine.rewrite.hard_sigmoid import fuse_hard_sigmoid

Pass = Callable[[Graph], int]

# In this order: a hard sigmoid is known by constants that folding would move elsewhere.
PASSES: tuple[Pass, ...] = (
    one_hot_to_gather,
    sink_gathers,
    fuse_gelu,
    fuse_hard_sigmoid,
    merge_gate,
    fold_affine,
)


def rewrite(source: Path, into: Path, passes: Sequence[Pass] = PASSES) -> dict[str, int]:
    """Write a model with passes applied.

    :param source: constants folded, shapes fixed
    :param into: in the folder of ``source``, whose weights it shares
    :param passes: in the order of `PASSES` (default: all)
    :returns: how many times each pass found its form, by its name
    """
    graph = Graph(weights.skeleton(source), source.parent)
    found = {each.__name__: each(graph) for each in passes}
    weights.save(graph.finish(), into)
    return found
