"""The best of many scores, and how their names are written."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.batch.answers import json_text
from model_delivery_engine.batch.batch import Answers, Fault, even_cuts
from model_delivery_engine.batch.json_lines import batched_lines, split_lines
from model_delivery_engine.batch.labels import Labels
from model_delivery_engine.batch.top_k import top_k

RANDOM = np.random.default_rng(2)


def expected(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize(("width", "k"), [(1, 1), (7, 7), (300, 25), (1682, 25), (1683, 500)])
@pytest.mark.parametrize("distinct", [3, 1_000_000])
def test_the_best_come_in_order_and_equals_by_place(width: int, k: int, distinct: int) -> None:
    scores = (RANDOM.integers(-distinct, distinct, (70, width)) / 7).astype(np.float32)
    places, best = top_k([scores[:33], scores[33:69], scores[69:]], k)
    order, values = expected(scores, k)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(best, values)


@pytest.mark.parametrize("equal", [[0], [5, 40], range(70)])
def test_rows_of_equal_scores_widen_no_others(equal: Any) -> None:
    scores = RANDOM.normal(size=(70, 20_000)).astype(np.float32)
    for row in equal:
        scores[row] = 0
        scores[row, ::999] = 1
    scores[3, 400:] = -np.inf  # as where a filter leaves few
    order, values = expected(scores, 50)
    tracemalloc.start()
    places, best = top_k([scores[:2], scores[2:50], scores[50:]], 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(best, values)
    assert peak < 48 * 20_000 * 14 + 4_000_000  # a block's own; a table of all: 11 MB and its sort


def test_what_is_left_out_comes_last_and_zero_has_no_sign() -> None:
    scores = np.full((2, 400), -np.inf, np.float32)
    scores[:, 7], scores[:, 390], scores[1, 8] = -0.0, 0.0, 3e38
    places, best = top_k([scores], 3)
    assert places[:, :2].tolist() == [[7, 390], [8, 7]]
    assert best[1].tolist() == [np.float32(3e38), 0, 0]
    assert best[0, 2] == -np.inf


@pytest.mark.parametrize("at", [0, 250, 299])
def test_a_nan_is_seen(at: int) -> None:
    scores = RANDOM.normal(size=(4, 300)).astype(np.float32)
    good = expected(scores, 5)[1]
    scores[2, at] = np.nan
    best = top_k([scores], 5)[1]
    assert np.isinf(best[2]).all()
    np.testing.assert_array_equal(best[[0, 1, 3]], good[[0, 1, 3]])


@pytest.mark.parametrize(
    "texts",
    [
        ["1", "22", "333"],
        ['"', "\\", "\n\0"],
        ["é", "],[", ""],
        ["a" * 11, "b", "c"],
        ["0f8fad5b-d9cb-469f-a165-70867728950e", "b", "],["],
    ],
)
def test_labels_are_written_as_their_texts(texts: list[str]) -> None:
    places = RANDOM.integers(0, 3, (5, 4))
    echoes = [b'{"n":%d}' % n for n in range(5)]
    answers = Answers(5, echoes, {"names": places, "n": np.arange(5)}, {})
    lines = [json.loads(line) for line in json_text(answers, {"names": Labels(texts)}).splitlines()]
    assert [line["output"]["names"] for line in lines] == [[texts[n] for n in r] for r in places]
    assert [line["output"]["n"] for line in lines] == list(range(5))
    fault = Fault("why", "mem://x", 3, b"null")
    some = Answers(2, echoes[:1], {"names": places[:1]}, {0: fault})
    failed, line = map(json.loads, json_text(some, {"names": Labels(texts)}).splitlines())
    assert failed["error"]["reason"] == "why"
    assert line["output"]["names"] == [texts[n] for n in places[0]]


@pytest.mark.parametrize("ending", [b"", b"\n"])
@pytest.mark.parametrize("length", [0, 10, 100_000])
@pytest.mark.parametrize("long_first", [False, True])
def test_batches_are_of_equal_size_and_know_where_they_begin(
    ending: bytes, length: int, *, long_first: bool
) -> None:
    numbers = sorted(range(70), reverse=long_first)
    data = b"\n".join(b"%d" % n + b"x" * (n * length % 70_001) for n in numbers) + ending
    batches = list(batched_lines(data, 5, 32))
    assert [len(lines) for _, lines in batches] == [23, 23, 24]
    assert [line for _, lines in batches for line in lines] == split_lines(data)
    for offset, lines in batches:
        assert data[offset - 5 :].startswith(lines[0])
    assert list(batched_lines(b"", 0, 32)) == []


def test_cuts_cover_all_with_the_fewest_batches() -> None:
    for count in range(100):
        cuts = list(even_cuts(count, 8))
        sizes = [end - begin for begin, end in cuts]
        assert sum(sizes) == count
        assert len(sizes) == -(-count // 8)
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
