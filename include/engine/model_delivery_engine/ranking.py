"""What places and labels were chosen by: the scores before a model's TopK, ArgMax or ArgMin.

Where two scores are as good as equal, either place is a right answer, also at the end of the best,
where the other one is not shown. The model itself knows its scores; it is asked for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from model_delivery_engine import weights
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.runtime import Model, open_session
from model_delivery_engine.tensors import Array

_UNCHANGED = frozenset({"Cast", "Identity"})
_LABELS = frozenset({"ArrayFeatureExtractor", "Reshape"})
_BEST = 2


@dataclass(frozen=True)
class Ranked:
    """What an output was chosen by.

    :param scores: all of them
    :param axis: along which places count
    :param kept: the output has that axis too
    :param label: the output is not the place but what stands there in a list
    :param shown: an output has the scores of the places, so that they are held by themselves
    """

    scores: Array
    axis: int
    kept: bool = True
    label: bool = False
    shown: bool = False

    def as_good(self, got: Array, want: Array, share: float) -> Array:
        """Return where a place, or a label, is as good as the one wanted.

        :param share: of the largest score beside them, which equal ones may be apart
        """
        scores = np.moveaxis(self.scores.astype(np.float64), self.axis, -1)
        sizes = np.abs(np.where(np.isfinite(scores), scores, 0.0))
        margin = share * np.maximum(sizes.max(axis=-1, keepdims=True, initial=0.0), 1e-30)
        if self.label:
            best = np.sort(np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf))
            tied = _close(best[..., -1:], best[..., -_BEST:][..., :1], margin)
            return (
                tied.reshape(want.shape) if tied.size == want.size else np.zeros(want.shape, bool)
            )
        ours, theirs = (self._rows(each) for each in (got, want))
        last = scores.shape[-1] - 1
        if ours.shape[:-1] != scores.shape[:-1] or last < 0:
            return np.zeros(want.shape, bool)
        inside = (np.minimum(ours, theirs) >= 0) & (np.maximum(ours, theirs) <= last)
        one, other = (
            np.take_along_axis(scores, np.clip(each, 0, last), -1) for each in (ours, theirs)
        )
        alone = np.diff(np.sort(ours, axis=-1), axis=-1).all(axis=-1, keepdims=True)
        good = inside & alone & _close(one, other, margin)
        return np.asarray(np.moveaxis(good, -1, self.axis).reshape(want.shape))

    def _rows(self, places: Array) -> Array:
        whole = places.astype(np.int64)
        return np.moveaxis(whole, self.axis, -1) if self.kept else whole[..., None]


def _close(one: Array, other: Array, margin: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray((one == other) | (np.abs(one - other) <= margin))


Ranking = Callable[[Mapping[str, Array]], dict[str, Ranked]]


@dataclass(frozen=True)
class _Choice:
    """How an output was chosen: the tensor of scores, and the rest as in `Ranked`."""

    scores: str
    axis: int
    kept: bool
    label: bool
    shown: bool


def ranking_of(source: Path, seconds: float | None = None) -> Ranking | None:
    """Return what gives the scores behind a model's places and labels; None where it has none.

    :param source: an ONNX file as `weights.save` lays it; the one made of it lies beside it
    :param seconds: for one run (default: no bound)
    """
    model = weights.skeleton(source)
    choices = _choices(model.graph)
    if not choices:
        return None
    opened: list[Model] = []

    def ranking(inputs: Mapping[str, Array]) -> dict[str, Ranked]:
        if not opened:
            opened.append(_with_scores(model, choices, source, seconds))
        answers = {**inputs, **opened[0].run(inputs)}
        return {
            name: Ranked(answers[each.scores], each.axis, each.kept, each.label, each.shown)
            for name, each in choices.items()
        }

    return ranking


def _with_scores(
    model: Any, choices: Mapping[str, _Choice], source: Path, seconds: float | None
) -> Model:
    there = {each.name for each in (*model.graph.input, *model.graph.output)}
    for name in {each.scores for each in choices.values()} - there:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    path = source.with_name(f"{source.stem}.ranked.onnx")
    onnx.save(model, path)
    return Model(open_session(path, unoptimised_options()), path.name, seconds)


def _choices(graph: Any) -> dict[str, _Choice]:
    makers = {name: node for node in graph.node for name in node.output if name}
    outputs = [each.name for each in graph.output]
    shown = {_origin(name, makers) for name in outputs}
    found = {}
    for name in outputs:
        place = _origin(name, makers)
        node, label = makers.get(place), False
        while node is not None and node.op_type in _LABELS:
            label |= node.op_type == "ArrayFeatureExtractor"
            # The list comes first, and the place in it second; of a Reshape it is the first.
            at = 1 if node.op_type == "ArrayFeatureExtractor" else 0
            place = _origin(node.input[at], makers)
            node = makers.get(place)
        if node is None or (not label and place != _origin(name, makers)):
            continue
        said = {each.name: each.i for each in node.attribute}
        if node.op_type == "TopK" and not label and place == node.output[1]:
            seen = node.output[0] in shown or _origin(node.input[0], makers) in shown
            found[name] = _Choice(node.input[0], said.get("axis", -1), True, False, seen)
        elif node.op_type in ("ArgMax", "ArgMin"):
            kept, axis = bool(said.get("keepdims", 1)), said.get("axis", 0)
            seen = _origin(node.input[0], makers) in shown
            if label and node.op_type == "ArgMin":
                continue
            found[name] = _Choice(node.input[0], axis, kept, label, seen)
    return found


def _origin(name: str, makers: Mapping[str, Any]) -> str:
    """Return the tensor that one is a copy of, in whatever type."""
    while name in makers and makers[name].op_type in _UNCHANGED:
        name = makers[name].input[0]
    return name
