"""Recommenders: user and item factors as one ONNX model, and Personalize's input lines.

The model's metadata hold its recipe and the ids of users and items, in the order of their factors.
Its constant ``k``, the recommendations a record, can be replaced in a run. Here it is none at all:
the best are found in the scores of all items, faster than ONNX Runtime finds them.

Source of lines and recipes: https://docs.aws.amazon.com/personalize/latest/dg/batch-data-upload.html
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from model_delivery_engine.batch.batch import Batch, Fault, PartReader
from model_delivery_engine.batch.json_lines import (
    batched_lines,
    line_fault,
    line_faults,
    open_envelope,
    records_of,
    stack_samples,
)
from model_delivery_engine.batch.labels import Labels
from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.batch.top_k import top_k
from model_delivery_engine.errors import BatchError, InferenceError
from model_delivery_engine.runtime import Model
from model_delivery_engine.tensors import Array, TensorSpec

METADATA = "recommender"
ITEM_SCORES = "item_scores"
RESULTS = "k"
DEFAULT_RESULTS = 25
MOST_RESULTS = 500
RECOMMENDED = "recommendedItems"
BATCH_SIZE = 1024  # records read and written at a time; they are scored in blocks
_BLOCK_BYTES = 768 * 1024  # of scores: they stay in a core's cache until their best are found
_MOST_KNOWN = 250_000  # ids whose plain lines are kept: 250 bytes each, in every process
_NO_RESULTS = {RESULTS: np.zeros(1, np.int64)}


@dataclass(frozen=True)
class Recommendations:
    """What is asked of a recommender.

    :param results: items a record, 1 to 500 (default: 25; of a ranking: the whole list)
    :param excluded: items that are never recommended
    """

    results: int | None = None
    excluded: tuple[str, ...] = ()


class Recommender:
    """Runs a recommender's model as the batch pipeline runs any model.

    :raises BatchError: a model that is no recommender, or a number of results out of range
    """

    def __init__(self, model: Model, asked: Recommendations) -> None:
        self.name, self.batch_size = model.name, model.batch_size
        self.inputs = model.inputs
        self._model = model
        if asked.results is not None and not 1 <= asked.results <= MOST_RESULTS:
            raise BatchError(f"{asked.results} results asked for; ask for 1 to {MOST_RESULTS}")
        data = _facts(model)
        self.recipe = Recipe(data["recipe"])
        self.users = {name: n for n, name in enumerate(data["users"])}
        self.items = {name: n for n, name in enumerate(data["items"])}
        self.excluded = frozenset(asked.excluded)
        self._left_out = np.array(
            [self.items[name] for name in self.excluded if name in self.items], np.intp
        )
        self._results = self._results_of(asked)
        self.outputs = (
            TensorSpec(RECOMMENDED, "BYTES", (-1, -1)),
            TensorSpec("scores", "FP32", (-1, -1)),
        )
        self.labels = {RECOMMENDED: Labels(data["items"])}

    def _results_of(self, asked: Recommendations) -> int:
        if self.recipe == Recipe.PERSONALIZED_RANKING:
            return asked.results or MOST_RESULTS
        if ITEM_SCORES not in {spec.name for spec in self._model.outputs}:
            raise BatchError(f"model {self.name!r} has no output {ITEM_SCORES!r}, as one of an "
                             "earlier release; write it again with write_recommender")  # fmt: skip
        itself = int(self.recipe == Recipe.RELATED_ITEMS)
        left = len(self.items) - len(self._left_out) - itself
        if left < 1:
            raise BatchError(f"model {self.name!r}: the filter leaves no item to recommend")
        return min(asked.results or DEFAULT_RESULTS, left)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return ``recommendedItems``, as places in ``labels``, and ``scores``, best first."""
        if self.recipe == Recipe.PERSONALIZED_RANKING:
            return self._ranked(inputs)
        items, best = top_k(self._scores(inputs), self._results)
        return {RECOMMENDED: items, "scores": best}

    def _scores(self, inputs: Mapping[str, Array]) -> Iterator[Array]:
        """Yield the scores of all items, a few records at a time."""
        ((name, asked),) = inputs.items()
        size = max(_BLOCK_BYTES // (4 * len(self.items)), 1)
        for at in range(0, len(asked), size):
            rows = asked[at : at + size]
            scores = self._model.run({name: rows}, _NO_RESULTS)[ITEM_SCORES]
            if len(self._left_out):
                scores[:, self._left_out] = -np.inf
            if self.recipe == Recipe.RELATED_ITEMS:
                scores[np.arange(len(rows)), rows] = -np.inf
            yield scores

    def _ranked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Order each record's list by score; equal scores keep the list's order.

        Lists have one length here: those of a batch that differ come by their length.
        """
        users, items = inputs["user"], inputs["item"]
        if not items.shape[1]:
            raise InferenceError("itemList is empty")
        pairs = {"user": np.repeat(users, items.shape[1]), "item": items.ravel()}
        scores = self._model.run(pairs)["scores"].reshape(items.shape)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._results]
        ranked = np.take_along_axis(items, order, axis=1)
        return {
            RECOMMENDED: ranked,
            "scores": np.take_along_axis(scores, order, axis=1),
        }


def service_error_line(fault: Fault) -> bytes:
    """Return the line that Personalize writes for a record without an answer.

    Its error is a text; where the record came from stands in it too.

    Source: https://repost.aws/questions/QUeREKqg8BSiakXAEyxdUr7A
    """
    text = f"User error: {fault.reason} ({fault.uri}, byte {fault.offset})"
    return b'{"input":%b,"output":{"recommendedItems":[]},"error":%b}\n' % (
        fault.record, orjson.dumps(text),
    )  # fmt: skip


def _plain_lines(field: str, index: Mapping[str, int]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for name, row in index.items():
        # Copied: what orjson returns keeps its buffer, of 1 KiB for these 20 bytes.
        found[bytes(memoryview(orjson.dumps({field: name})))] = row
        found[json.dumps({field: name}).encode()] = row
    return found


def item_ids(model: Model) -> list[str]:
    """Return the ids of a recommender's items; BatchError for a model that is none."""
    return list(_facts(model)["items"])


def _facts(model: Model) -> dict[str, Any]:
    facts = model.metadata.get(METADATA)
    if facts is None:
        raise BatchError(f"model {model.name!r} is no recommender: it has no ids in its "
                         f"metadata {METADATA!r}; write it with write_recommender")  # fmt: skip
    found: dict[str, Any] = json.loads(facts)
    return found


class RecommenderLines(PartReader):
    """Reads Personalize's input lines; an unknown user or item is a fault."""

    def __init__(self, recommender: Recommender, uri: str) -> None:
        self._recommender = recommender
        self._uri = uri
        related = recommender.recipe == Recipe.RELATED_ITEMS
        self._name, self._field = ("item", "itemId") if related else ("user", "userId")
        self._index = recommender.items if related else recommender.users
        self._lists = recommender.recipe == Recipe.PERSONALIZED_RANKING
        # The lines that say nothing but an id, as orjson and as Python's json write them: to find
        # such a line is seven times as fast as to parse it.
        known = not self._lists and len(self._index) <= _MOST_KNOWN
        self._known = _plain_lines(self._field, self._index) if known else {}

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches, each with how many lines of it were blank."""
        returns = b"\r" in data
        for offset, batch in batched_lines(data, start, size):
            yield self._read(batch, offset, returns=returns)

    def _read(self, lines: Sequence[bytes], offset: int, *, returns: bool) -> tuple[Batch, int]:
        fault_of = line_faults(lines, offset, self._uri)
        if not self._lists:
            # A carriage return belongs to the line's end, but counts in its offset.
            echoes = [line.removesuffix(b"\r") for line in lines] if returns else lines
            try:
                rows = self._rows(echoes)
            except (ValueError, KeyError, TypeError):
                return self._read_each(lines, offset)
            return Batch(len(lines), echoes, {self._name: rows}, fault_of), 0
        return self._read_each(lines, offset)

    def _rows(self, lines: Sequence[bytes]) -> Array:
        try:
            return np.fromiter(map(self._known.__getitem__, lines), np.int64, len(lines))
        except KeyError:
            index, field, loads = self._index, self._field, orjson.loads
            rows = (index[loads(line)[field]] for line in lines)
            return np.fromiter(rows, np.int64, len(lines))

    def _read_each(self, lines: Sequence[bytes], offset: int) -> tuple[Batch, int]:
        pairs = records_of(lines, offset)
        faults: dict[int, Fault] = {}
        echoes: list[bytes] = []
        samples: list[dict[str, Any]] = []
        for place, (at, each) in enumerate(pairs):
            line = each.removesuffix(b"\r")
            found, record = self._read_line(line)
            if isinstance(found, str):
                faults[place] = line_fault(line, found, self._uri, at)
            else:
                samples.append(found)
                echoes.append(record)
        tensors = stack_samples(samples) if self._lists or not samples else self._stacked(samples)
        fault_of = line_faults(lines, offset, self._uri)
        return Batch(len(pairs), echoes, tensors, fault_of, faults), len(lines) - len(pairs)

    def _read_line(self, line: bytes) -> tuple[dict[str, Any] | str, bytes]:
        """Return a line's tensors, or what is wrong with it; and its record, or an error line's."""
        row = self._known.get(line)
        if row is not None:
            return {self._name: row}, line
        found = self._sample(line)
        if isinstance(found, str) and (origin := open_envelope(line)):
            return self._sample(origin[0]), origin[0]
        return found, line

    def _stacked(self, samples: Sequence[dict[str, Any]]) -> dict[str, Array]:
        rows = (sample[self._name] for sample in samples)
        return {self._name: np.fromiter(rows, np.int64, len(samples))}

    def _sample(self, line: bytes) -> dict[str, Any] | str:
        """Return the tensors of a line, or what is wrong with it."""
        try:
            data = orjson.loads(line)
        except ValueError as error:
            return f"not JSON: {error}"
        if not isinstance(data, dict):
            return "not a JSON object"
        value = data.get(self._field)
        if not isinstance(value, str):
            return f"field {self._field!r} is missing or no text"
        if value not in self._index:
            return f"{self._field} {value!r} is unknown to the recommender"
        sample: dict[str, Any] = {self._name: np.int64(self._index[value])}
        return self._with_list(data, sample) if self._lists else sample

    def _with_list(self, data: Mapping[str, Any], sample: dict[str, Any]) -> dict[str, Any] | str:
        names, items = data.get("itemList"), self._recommender.items
        if not isinstance(names, list) or not names:
            return "field 'itemList' is missing, empty or no list"
        if unknown := [name for name in names if not isinstance(name, str) or name not in items]:
            return f"item {unknown[0]!r} of itemList is unknown to the recommender"
        if len(names) > MOST_RESULTS:
            return f"itemList has {len(names)} items; a ranking takes {MOST_RESULTS}"
        kept = [items[name] for name in names if name not in self._recommender.excluded]
        if not kept:
            return "the filter leaves no item of itemList"
        return {**sample, "item": np.array(kept, np.int64)}
