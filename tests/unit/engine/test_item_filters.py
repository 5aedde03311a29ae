"""Filters: Personalize's expressions over the items' attributes."""

import pytest
from model_delivery_engine.batch.item_filters import columns, parse_filter, read_items
from model_delivery_engine.errors import BatchError

CSV = """ITEM_ID,TITLE,Year,GENRES
1,Toy Story,1995,Animation|Children|Comedy
2,GoldenEye,1995,Action|Thriller
3,"Nixon, again",1990,Drama
4,Unknown,,
"""
IDS = ["1", "2", "3", "4", "5"]  # 5 has no row


def kept(expression: str) -> list[str]:
    found = parse_filter(expression)
    items = read_items(CSV.splitlines(), found.fields)
    excluded = found.excluded(IDS, items)
    return [each for each in IDS if each not in excluded]


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ('EXCLUDE ItemID WHERE Items.GENRES IN ("Comedy")', ["2", "3", "4", "5"]),
        ('INCLUDE ItemID WHERE Items.GENRES IN ("Comedy", "Drama")', ["1", "3"]),
        ('include itemId where items.genres not in ("Comedy")', ["2", "3", "4", "5"]),
        ('INCLUDE ItemID WHERE Items.GENRES IN ("*")', ["1", "2", "3"]),
        ("INCLUDE ItemID WHERE Items.YEAR > 1990", ["1", "2"]),
        ("INCLUDE ItemID WHERE Items.YEAR <= 1990", ["3"]),
        ("INCLUDE ItemID WHERE Items.YEAR = 1990.0", ["3"]),
        ("INCLUDE ItemID WHERE Items.YEAR IN (1990.00, 7)", ["3"]),
        ('INCLUDE ItemID WHERE Items.YEAR = "1990.0"', []),
        ("EXCLUDE ItemID WHERE Items.YEAR != 1995.0", ["1", "2"]),
        ("INCLUDE ItemID WHERE Items.YEAR = 1990", ["3"]),
        ("EXCLUDE ItemID WHERE Items.YEAR != 1990", ["3"]),
        ('INCLUDE ItemID WHERE Items.YEAR >= 1995 AND Items.GENRES IN ("Action")', ["2"]),
        (
            'INCLUDE ItemID WHERE Items.YEAR < 1995 OR Items.GENRES IN ("Action") '
            "AND Items.YEAR > 1",
            ["2", "3"],
        ),
        ("INCLUDE ItemID WHERE Items.TITLE IN ('Nixon, again')", ["3"]),
        (
            'EXCLUDE ItemID WHERE Items.GENRES IN ("Comedy") | '
            'EXCLUDE ItemID WHERE Items.GENRES IN ("Drama")',
            ["2", "4", "5"],
        ),
        (
            'INCLUDE ItemID WHERE Items.GENRES IN ("Comedy") | '
            'INCLUDE ItemID WHERE Items.GENRES IN ("Drama")',
            ["1", "3"],
        ),
        (
            "INCLUDE ItemID WHERE Items.YEAR = 1995 | "
            'EXCLUDE ItemID WHERE Items.GENRES IN ("Comedy")',
            ["2"],
        ),
    ],
)
def test_what_a_filter_keeps(expression: str, left: list[str]) -> None:
    assert kept(expression) == left


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "expected INCLUDE or EXCLUDE, found the end"),
        ("SELECT ItemID", "expected INCLUDE or EXCLUDE, found SELECT"),
        ("EXCLUDE UserID WHERE Users.AGE > 3", "UserID is not supported"),
        (
            'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("click")',
            "Interactions.EVENT_TYPE is not supported; filter by Items.FIELD",
        ),
        ("EXCLUDE ItemID WHERE Items.YEAR IN ($YEAR)", "the parameter \\$YEAR is not supported"),
        ("EXCLUDE ItemID WHERE Items.YEAR IN 3", "expected \\(, found 3"),
        ('EXCLUDE ItemID WHERE Items.YEAR > "x"', "> compares numbers"),
        ("EXCLUDE ItemID WHERE Items.YEAR IN (3) IF CurrentUser.AGE = 3", "IF conditions"),
        ("EXCLUDE ItemID WHERE Items.YEAR IN (3) what", "unexpected what"),
        ("EXCLUDE ItemID WHERE Items.YEAR ~ 3", "cannot read '~ 3'"),
        (
            "EXCLUDE ItemID WHERE " + " OR ".join(f"Items.F{n} = 1" for n in range(11)),
            "looks at 11 fields; 10",
        ),
    ],
)
def test_what_cannot_be_read_is_said(expression: str, why: str) -> None:
    with pytest.raises(BatchError, match=why):
        parse_filter(expression)


def test_a_column_that_is_missing_is_named() -> None:
    assert columns("item_id,Genres") == {"GENRES"}
    with pytest.raises(BatchError, match="no column ITEM_ID"):
        columns("id,genres")
    with pytest.raises(BatchError, match="no column PRICE; they have ITEM_ID, TITLE"):
        read_items(CSV.splitlines(), ["PRICE"])


def test_spaces_around_cells_are_not_part_of_them() -> None:
    items = read_items(["ITEM_ID , GENRES", " 1 , Comedy | Drama ", "2,Horror"], ["GENRES"])
    found = parse_filter('EXCLUDE ItemID WHERE Items.GENRES IN ("Drama")')
    assert found.excluded(["1", "2"], items) == ("1",)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["1,a", "2,b", "1,c"], "row in line 4 has ITEM_ID '1' again"),
        (["1,a", "2"], "row in line 3 has 1 cells for 2 columns"),
        (["1,a", "2,b,c"], "row in line 3 has 3 cells for 2 columns"),
        (["1,a", " ,b"], "row in line 3 has no ITEM_ID"),
    ],
)
def test_items_that_a_filter_could_not_tell_apart_are_refused(rows: list[str], why: str) -> None:
    with pytest.raises(BatchError, match=why):
        read_items(["ITEM_ID,GENRES", *rows], ["GENRES"])
    with pytest.raises(BatchError, match="column GENRES twice"):
        columns("ITEM_ID,Genres,genres")
