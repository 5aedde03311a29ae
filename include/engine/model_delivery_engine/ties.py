"""What a model answers where it chooses otherwise between scores that are as good as equal.

A detector takes its best boxes itself (TopK, NonMaxSuppression), and whole rows of what it answers
follow the places. Two scores that are a last bit apart change places wherever sums are rounded in
another order, and either order is right. So the model is asked again, with its scores moved by no
more than rounding may move them, towards what another form of it has chosen. That form is then held
to this answer, value by value, as to any other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from model_delivery_engine import weights
from model_delivery_engine.errors import EngineError
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.runtime import Model, open_session
from model_delivery_engine.tensors import Array

_MOST_RUNS = 16  # of the model, to see what stands at the places that tie
_MOST_PLACES = 20_000
_LEAST_AT = 4  # of a NonMaxSuppression's inputs, where it has that many
_SCORES, _FORCED, _LEAST = "tied scores", "tied places", "least score"
_UNUSED = "moved scores"
_GAP = 10.0  # times what stands above it: scores that far below are masks, and no other's measure
_LARGEST = float(np.finfo(np.float32).max)  # beyond, a score is a mask as well
_INFINITE = 1e300  # infinity, of which sums and differences are numbers
_SAME = 1e-6  # of a column's magnitude: two places whose rows differ by no more are as near


@dataclass(frozen=True)
class Chosen:
    """An answer of a model that has chosen as another one.

    :param answers: by output
    :param shown: an output has the scores, so that they are held by themselves
    """

    answers: dict[str, Array]
    shown: bool


class Ties:
    """Asks a model what it answers with its scores moved.

    :param source: an ONNX file as `weights.save` lays it; what is made of it lies beside it
    :param seconds: for one run (default: no bound)
    """

    def __init__(self, source: Path, seconds: float | None = None) -> None:
        self._source, self._seconds = source, seconds
        self._opened: dict[str, Model] = {}
        graph = weights.skeleton(source).graph
        used = {name for node in graph.node for name in node.input}
        used |= {each.name for each in graph.output}
        found = [_Selector.of(node) for node in graph.node]
        # The last one first: what it chooses among may be another's choice.
        self._selectors = [each for each in reversed(found) if each and each.places in used]

    def __bool__(self) -> bool:
        return bool(self._selectors)

    def chosen_as(
        self, inputs: Mapping[str, Array], own: Mapping[str, Array], other: Mapping[str, Array],
        share: float,
    ) -> Chosen | None:  # fmt: skip
        """Return what the model answers with another one's choice; None where it has no other.

        :param own: its answers to these inputs
        :param other: the other one's
        :param share: of its largest score, how far each may be moved
        """
        for number, selector in enumerate(self._selectors):
            try:
                if found := self._chosen(selector, number, dict(inputs), own, other, share):
                    return found
            except EngineError:  # it has no answer where places are taken that it did not choose
                continue
        return None

    def _chosen(
        self,
        selector: "_Selector",
        number: int,
        inputs: dict[str, Array],
        own: Mapping[str, Array],
        other: Mapping[str, Array],
        share: float,
    ) -> Chosen | None:
        seen = self._open(f"seen-{number}", selector.expose).run(inputs)
        scores, places = seen[selector.scores], seen[selector.places]
        if scores.dtype.kind != "f" or not scores.size:
            return None
        tied = selector.tied(scores, places, share, seen.get(_LEAST))
        if tied is None:
            return None
        forced = self._open(f"forced-{number}", selector.force, places.ndim)
        rows = _Rows.of(selector, forced, inputs, own, other, tied)
        if rows is None:
            return None
        wanted = rows.nearest(tied)
        moved = self._open(
            f"moved-{number}", selector.move, scores.ndim,
            onnx.helper.np_dtype_to_tensor_dtype(scores.dtype),
        )  # fmt: skip
        towards = tied.moved(wanted)
        answers = moved.run({**inputs, _SCORES: towards})
        return Chosen({name: answers[name] for name in own}, rows.show(tied))

    def _open(self, name: str, change: Callable[..., None], *more: Any) -> Model:
        if found := self._opened.get(name):
            return found
        model = weights.skeleton(self._source)
        change(model.graph, *more)
        path = self._source.with_name(f"{self._source.stem}.{name}.onnx")
        onnx.save(model, path)
        opened = Model(open_session(path, unoptimised_options()), path.name, self._seconds)
        return self._opened.setdefault(name, opened)


@dataclass(frozen=True)
class _Selector:
    """A TopK or a NonMaxSuppression.

    :param scores: the tensor that it goes by
    :param places: the tensor of what it chose
    :param axis: of a TopK
    :param sign: -1 for a TopK of the smallest
    """

    kind: str
    scores: str
    places: str
    axis: int = -1
    sign: float = 1.0

    @classmethod
    def of(cls, node: Any) -> "_Selector | None":
        said = {each.name: each.i for each in node.attribute}
        if node.op_type == "TopK" and len(node.output) > 1 and node.output[1]:
            sign = 1.0 if said.get("largest", 1) else -1.0
            return cls("TopK", node.input[0], node.output[1], said.get("axis", -1), sign)
        if node.op_type == "NonMaxSuppression":
            return cls("NonMaxSuppression", node.input[1], node.output[0])
        return None

    def node(self, graph: Any) -> Any:
        return next(each for each in graph.node if self.places in each.output)

    def expose(self, graph: Any) -> None:
        """Have the graph answer the scores, what it chose, and the least score that it takes."""
        there = {each.name for each in (*graph.output, *graph.input)}
        names = {self.scores, self.places} - there
        node = self.node(graph)
        if self.kind != "TopK" and len(node.input) > _LEAST_AT and node.input[_LEAST_AT]:
            graph.node.append(onnx.helper.make_node("Identity", [node.input[_LEAST_AT]], [_LEAST]))
            names.add(_LEAST)
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)

    def force(self, graph: Any, rank: int) -> None:
        """Have the graph take what it is to choose as an input."""
        node = self.node(graph)
        if self.kind == "TopK" and node.output[0]:
            self._values(graph, node, _FORCED)
        copy = onnx.helper.make_node("Identity", [_FORCED], [self.places])
        _replace(graph, node, copy)
        graph.input.append(_input(_FORCED, onnx.TensorProto.INT64, rank))

    def move(self, graph: Any, rank: int, kind: int) -> None:
        """Have the graph choose by scores that are an input, and pass on those that it has."""
        node = self.node(graph)
        at = 0 if self.kind == "TopK" else 1
        if self.kind == "TopK" and node.output[0]:
            self._values(graph, node, self.places)
            node.output[0] = _UNUSED
        node.input[at] = _SCORES
        graph.input.append(_input(_SCORES, kind, rank))

    def _values(self, graph: Any, node: Any, places: str) -> None:
        gather = onnx.helper.make_node(
            "GatherElements", [self.scores, places], [node.output[0]], axis=self.axis
        )
        graph.node.insert(list(graph.node).index(node) + 1, gather)

    def tied(
        self, scores: Array, places: Array, share: float, least: Array | None
    ) -> "_Tied | None":
        """Return the places that may be chosen where scores are moved; None for too many."""
        if self.kind == "TopK":
            return _tied_best(self, scores, places, share)
        return _tied_boxes(self, scores, places, share, least)


def _input(name: str, kind: int, rank: int) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, [None] * rank)


def _replace(graph: Any, node: Any, by: Any) -> None:
    nodes = [by if each is node else each for each in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@dataclass(frozen=True)
class _Tied:
    """What may be chosen. A line is what a TopK chooses from by itself; boxes are one line.

    :param own: the places that were chosen, (lines, chosen), as `flat` has them
    :param flat: scores by line, greater ones better
    :param sizes: magnitudes by line, (lines, 1), without masks
    :param margins: how far each score may be moved
    :param candidates: the places of each line that may be chosen, those to prefer first
    """

    selector: _Selector
    shape: tuple[int, ...]
    dtype: Any
    flat: Array
    sizes: Array
    margins: Array
    own: Array
    candidates: Array

    def moved(self, wanted: Array) -> Array:
        """Return the scores, moved no further than the margin so that these places are chosen.

        :param wanted: (lines, chosen), the best first
        """
        moved = self.flat - self.margins
        for line, group in self._groups(wanted):
            chosen, margins = self.flat[line, group], self.margins[line, group]
            high = np.minimum.accumulate(chosen + margins)
            # What is taken before has to stay above what is taken after.
            least = 2 * np.finfo(self.dtype).eps * np.maximum(np.abs(chosen), self.sizes[line])
            high[1:] -= np.cumsum(least[1:])
            moved[line, group] = np.maximum(high, chosen - margins)
        return self._unflat(moved * self.selector.sign)

    def fits(self, line: int, taken: Array) -> Array:
        """Tell which candidates may come after those that were taken already.

        Of a TopK those whose score is what stands there; of boxes no class that is past.
        """
        candidates = self.candidates[line]
        if self.selector.kind == "TopK":
            usual = self.own[line, len(taken)]
            off = np.abs(self.flat[line, candidates] - self.flat[line, usual])
            return np.asarray(off <= self.margins[line, candidates] + self.margins[line, usual])
        classes = candidates // self.shape[-1]
        return np.asarray(classes >= (taken[-1] // self.shape[-1] if len(taken) else 0))

    def _groups(self, wanted: Array) -> Iterator[tuple[int, Array]]:
        """Yield what is chosen in an order: a line's places, or the boxes of one class."""
        if self.selector.kind == "TopK":
            yield from enumerate(wanted)
            return
        classes = wanted[0] // self.shape[-1]
        for each in np.unique(classes):
            yield 0, wanted[0][classes == each]

    def _unflat(self, flat: Array) -> Array:
        with np.errstate(over="ignore"):
            scores = flat.astype(self.dtype)
        if self.selector.kind != "TopK":
            return scores.reshape(self.shape)
        at = self.selector.axis
        lines = np.moveaxis(np.empty(self.shape, np.int8), at, -1).shape
        return np.moveaxis(scores.reshape(lines), -1, at)

    def as_places(self, chosen: Array) -> Array:
        """Return places as the selector's own output has them."""
        if self.selector.kind != "TopK":
            return np.stack(np.unravel_index(chosen[0], self.shape), axis=-1).astype(np.int64)
        at = self.selector.axis
        lines = np.moveaxis(np.empty(self.shape, np.int8), at, -1).shape[:-1]
        return np.moveaxis(chosen.reshape(*lines, -1), -1, at).astype(np.int64)


def _tied_best(selector: _Selector, scores: Array, places: Array, share: float) -> _Tied | None:
    count, size = places.shape[selector.axis], scores.shape[selector.axis]
    flat = np.moveaxis(scores.astype(np.float64), selector.axis, -1).reshape(-1, size)
    flat = _finite(selector.sign * flat)
    own = np.moveaxis(places, selector.axis, -1).reshape(-1, count)
    if not count:
        return None
    sizes, margins = _margins(flat, share)
    found = []
    for line, chosen in enumerate(own):
        best = chosen[np.argsort(flat[line, chosen])]
        at = np.searchsorted(flat[line, best], flat[line])
        near = np.zeros(size, bool)
        for beside in (best[np.clip(at, 0, count - 1)], best[np.clip(at - 1, 0, count - 1)]):
            off = np.abs(flat[line] - flat[line, beside])
            near |= off <= margins[line] + margins[line, beside]
        found.append(np.flatnonzero(near))
    most = max(map(len, found))
    if most > _MOST_RUNS * count:
        return None
    candidates = np.stack([np.pad(each, (0, most - len(each)), mode="edge") for each in found])
    return _Tied(selector, scores.shape, scores.dtype, flat, sizes, margins, own, candidates)


def _finite(array: Array) -> Array:
    return np.nan_to_num(array, posinf=_INFINITE, neginf=-_INFINITE)


def _margins(flat: Array, share: float) -> tuple[Array, Array]:
    """Return the magnitudes of scores, (lines, 1), and how far each score may be moved.

    What a model masks (-10,000, -inf) says nothing of the size of those that it compares.
    """
    best = -np.sort(-flat, axis=-1)
    known = np.abs(best) <= _LARGEST
    top = np.where(known, best, -_LARGEST).max(axis=-1, keepdims=True)
    above = (top - best) + np.abs(best)
    gaps = known[:, :-1] & (best[:, :-1] - best[:, 1:] > _GAP * above[:, :-1])
    compared = known & (np.cumsum(np.pad(gaps, ((0, 0), (1, 0))), axis=-1) == 0)
    sizes = np.where(compared, np.abs(best), 0.0).max(axis=-1, keepdims=True, initial=0.0)
    return sizes, share * np.maximum(np.abs(flat), sizes)


def _tied_boxes(
    selector: _Selector, scores: Array, places: Array, share: float, least: Array | None
) -> _Tied | None:
    flat = _finite(scores.astype(np.float64)).reshape(1, -1)
    sizes, margins = _margins(flat, share)
    own = np.ravel_multi_index(tuple(places.T), scores.shape)[None]
    floor = -np.inf if least is None else least.reshape(())
    candidates = np.flatnonzero(flat[0] + margins[0] > floor)
    if not candidates.size or candidates.size > _MOST_PLACES:
        return None
    # As they would be taken: class by class, the best first. A box may stand for several classes,
    # and where it was taken says for which.
    others = ~np.isin(candidates, own)
    order = np.lexsort((-flat[0][candidates], candidates // scores.shape[-1], others))
    return _Tied(
        selector, scores.shape, scores.dtype, flat, sizes, margins, own, candidates[order][None]
    )


@dataclass(frozen=True)
class _Rows:
    """What stands in the outputs at each place that may be chosen, beside what the other one has.

    :param table: (lines, candidates, columns), each column in parts of its largest value
    :param own: (lines, chosen, columns)
    :param other: (lines, chosen by the other one, columns)
    :param sizes: of the columns
    """

    table: Array
    own: Array
    other: Array
    sizes: Array

    @classmethod
    def of(
        cls,
        selector: _Selector,
        forced: Model,
        inputs: dict[str, Array],
        own: Mapping[str, Array],
        other: Mapping[str, Array],
        tied: _Tied,
    ) -> "_Rows | None":
        """Run the model with every candidate as its choice; None where no output follows it."""

        def ask(places: Array) -> dict[str, Array]:
            return forced.run({**inputs, _FORCED: tied.as_places(places)})

        count = tied.own.shape[1]
        if selector.kind == "TopK":
            axes = _following(own, ask(tied.own[:, ::-1]), count)
            answers = [ask(each) for each in _chunks(tied.candidates, count)]
        else:
            # As one more than they are, so that no dimension of the same size is taken for theirs.
            every = tied.candidates
            while every.shape[1] in {count, *(n for each in own.values() for n in each.shape)}:
                every = np.concatenate([every, every[:, -1:]], axis=1)
            answers = [ask(every)]
            axes = _growing(own, answers[0], count, every.shape[1])
        lines = len(tied.own)
        axes = {
            name: at
            for name, at in axes.items()
            if name in other and other[name].ndim == own[name].ndim and _laid(own[name], at, lines)
        }
        if not axes:
            return None
        asked = [_columns(each, axes, lines) for each in answers]
        table = np.concatenate(asked, axis=1)[:, : tied.candidates.shape[1]]
        if len({other[name].shape[at] for name, at in axes.items()}) != 1:
            return None
        there = _columns(other, axes, lines)
        others = selector.kind == "TopK" and there.shape[1] != count
        if others or there.shape[-1] != table.shape[-1]:
            return None
        sizes = np.abs(table).max(axis=(0, 1), keepdims=True, initial=1e-30)
        return cls(table / sizes, _columns(own, axes, lines) / sizes, there / sizes, sizes)

    def nearest(self, tied: _Tied) -> Array:
        """Return the places that the other one has chosen, (lines, chosen)."""
        found = np.empty(self.other.shape[:2], np.int64)
        for line, rows in enumerate(self.other):
            candidates = tied.candidates[line]
            free = np.ones(len(candidates), bool)
            for number, row in enumerate(rows):
                may = free & tied.fits(line, found[line, :number])
                may = may if may.any() else free if free.any() else ~free
                off = np.where(may, np.abs(self.table[line] - row).max(axis=-1), np.inf)
                place = candidates[int(np.argmax(off <= off.min() + _SAME))]
                found[line, number] = place
                free &= candidates != place
        return found

    def show(self, tied: _Tied) -> bool:
        """Tell whether one of the columns is the scores."""
        flat = np.take_along_axis(tied.flat, tied.own, axis=-1)[..., None]
        columns = np.abs(self.own * self.sizes - flat * tied.selector.sign)
        near = columns <= _SAME * np.maximum(np.abs(flat), tied.sizes[..., None])
        return bool(near.all(axis=(0, 1)).any()) and bool(self.own.size)


def _following(own: Mapping[str, Array], turned: Mapping[str, Array], count: int) -> dict[str, int]:
    """Return the outputs whose rows are turned round where the places are, and their dimension."""
    found = {}
    for name, array in own.items():
        for at in (at for at, size in enumerate(array.shape) if size == count):
            there = turned[name]
            if there.shape == array.shape and _close(np.flip(array, at), there):
                found[name] = at
                break
    return found


def _growing(
    own: Mapping[str, Array], more: Mapping[str, Array], before: int, after: int
) -> dict[str, int]:
    """Return the outputs that grow with what is chosen, and the dimension that does."""
    found = {}
    for name, array in own.items():
        for at, size in enumerate(array.shape):
            grown = (*array.shape[:at], after, *array.shape[at + 1 :])
            if size == before and more[name].shape == grown:
                found[name] = at
    return found


def _close(one: Array, other: Array) -> bool:
    if one.dtype.kind not in "fiub":
        return False
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True))


def _laid(array: Array, at: int, lines: int) -> bool:
    """Tell whether an output's lines are those of the places: one, or all before the rows."""
    return lines == 1 or int(np.prod(array.shape[:at])) == lines


def _columns(outputs: Mapping[str, Array], axes: Mapping[str, int], lines: int) -> Array:
    """Return outputs side by side, (lines, chosen, columns)."""
    found = []
    for name, at in axes.items():
        array = _finite(outputs[name].astype(np.float64))
        if lines == 1:
            found.append(np.moveaxis(array, at, 0).reshape(1, array.shape[at], -1))
        else:
            found.append(array.reshape(lines, array.shape[at], -1))
    return np.concatenate(found, axis=-1)


def _chunks(candidates: Array, size: int) -> Sequence[Array]:
    """Return candidates in as many as are chosen at a time, the last filled up."""
    short = -candidates.shape[1] % size
    full = np.pad(candidates, ((0, 0), (0, short)), mode="edge")
    return np.split(full, full.shape[1] // size, axis=1)
