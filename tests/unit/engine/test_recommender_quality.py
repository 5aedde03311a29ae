"""From interactions to a judged recommender: what is held out, factors, figures, the page."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.errors import BatchError
from model_delivery_engine.recommend.factorise import Settings, factorise
from model_delivery_engine.recommend.interactions import Split, read_split
from model_delivery_engine.recommend.quality import judge
from model_delivery_engine.recommend.report import render_recommendations

HEADER = "USER_ID,ITEM_ID,EVENT_VALUE,TIMESTAMP"


def split_of(rows: list[str], **given: Any) -> Split:
    return read_split([HEADER, *rows], **{"least_value": 4, "share": 0.4, **given})


def test_the_newest_of_each_user_are_held_out() -> None:
    split = split_of(
        [
            *(f"a,i{n},5,{100 - n}" for n in range(5)),  # i0 is the newest
            "b,i1,4,1", "b,i2,4,2", "c,i9,1,1", "a,i1,3,999",
        ]
    )  # fmt: skip
    assert split.users == ("a", "b", "c")  # all are known, also who likes nothing
    assert set(split.items) == {"i0", "i1", "i2", "i3", "i4", "i9"}
    named = {
        split.users[user]: {split.items[item] for item in items}
        for user, items in split.held_out.items()
    }
    assert named == {"a": {"i0", "i1"}}  # b has fewer than 5
    seen = {split.users[u]: {split.items[i] for i in items} for u, items in split.seen().items()}
    assert seen == {"a": {"i2", "i3", "i4"}, "b": {"i1", "i2"}}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([HEADER, "a,i,many,1"], "line 2 of the interactions"),
        ([HEADER, "a,i,3,1"], "no interaction has an EVENT_VALUE of 4"),
        (["USER_ID,ITEM_ID,TIMESTAMP"], "no column EVENT_VALUE"),
        ([], "no column USER_ID"),
    ],
)
def test_what_cannot_be_read_is_said(rows: list[str], why: str) -> None:
    with pytest.raises(BatchError, match=why):
        read_split(rows, least_value=4, share=0.2)


def test_the_factors_find_two_groups_of_taste() -> None:
    """Even users like even items, odd users odd ones; each has missed some of their kind."""
    chance = np.random.default_rng(0)
    pairs = [
        (user, item)
        for user in range(60)
        for item in range(40)
        if user % 2 == item % 2 and chance.random() < 0.5
    ]
    split = split_of([f"u{u},i{i},5,{n}" for n, (u, i) in enumerate(pairs)], share=0.0)
    users, items = factorise(split, Settings(factors=8, rounds=8))
    assert users.shape == (60, 8)
    assert users.dtype == np.float32
    scores = users @ items.T
    for row, user in enumerate(split.users):
        best = [split.items[n] for n in np.argsort(-scores[row])[:15]]
        assert {int(item[1:]) % 2 for item in best} == {int(user[1:]) % 2}
    again = factorise(split, Settings(factors=8, rounds=8))
    np.testing.assert_array_equal(users, again[0])


def answer(user: str, items: list[str]) -> dict[str, Any]:
    return {"input": {"userId": user}, "output": {"recommendedItems": items}, "error": None}


def test_figures_as_counted_by_hand() -> None:
    records = [
        answer("a", ["seen", "x", "y", "z"]),  # seen is dropped: x y z are left
        answer("b", ["y", "p", "q"]),
        answer("nobody", ["r"]),  # nothing held out: only its coverage counts
        {"input": {"userId": "c"}, "output": None, "error": {"reason": "unknown"}},
    ]
    quality = judge(
        records, seen={"a": ["seen", "p"], "b": ["p2", "p"]},
        held_out={"a": ["x", "z"], "b": ["none"]}, items=10,
    )  # fmt: skip
    assert (quality.users, quality.errors) == (2, 1)
    assert quality.precision == {1: 0.5, 5: 0.2, 10: 0.1, 20: 0.05}
    assert quality.recall == {1: 0.25, 5: 0.5, 10: 0.5, 20: 0.5}
    # p is what the most people like; both have seen it.
    assert quality.baseline[1] == 0
    assert quality.coverage[1] == pytest.approx(0.3)  # x, y, r
    assert quality.popularity == (2, 1, 1, 1, 1)  # y twice; x z q r, and p is b's own


def test_nobody_to_judge_by_is_an_error() -> None:
    with pytest.raises(BatchError, match="no user with held-out items was answered"):
        judge([answer("a", ["x"])], seen={}, held_out={}, items=3)


def test_the_page_holds_its_figures_and_escapes_what_it_is_given() -> None:
    quality = judge([answer("a", ["x", "y"])], seen={}, held_out={"a": ["x"]}, items=5)
    page = render_recommendations(
        quality, run_id="<run>", created="now", facts={"job": "<script>alert(1)</script>"}
    )
    assert "<script>" not in page
    assert "&lt;run&gt;" in page
    figures = page.split("<svg")[1:]
    assert len(figures) == 3
    for each in figures:
        ET.fromstring("<svg" + each[: each.index("</svg>")] + "</svg>")
