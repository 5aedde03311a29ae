"""The one label of an answer, whichever elements a template has."""

import itertools
from typing import Any

import pytest
from model_delivery_engine.review.labels import label_of
from model_delivery_localcloud.review.facts import as_label

MODERATION = "AWS/Rekognition/DetectModerationLabels/Image/V3"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"digit": {"label": "7"}}, "7"),
        ({"digit": {"label": "7"}, "comment": "hard to read"}, "7"),
        ({"digit": {"label": "7"}, "night": {"yes": True}}, "7"),
        ({"digit": {"label": ""}, "comment": "hard to read"}, None),
        ({"a": {"label": "1"}, "b": {"label": "2"}}, None),
        ({"animals": {"labels": ["dog", "cat"]}}, "cat, dog"),
        ({"animals": {"labels": []}}, ""),
        ({MODERATION: {"moderationLabels": [{"name": "Weapons"}, {"name": "Smoking"}]}},
         "Smoking, Weapons"),
        ({MODERATION: {"moderationLabels": []}}, ""),
        ({"sharpness": {"sharp": True, "blurred": False}}, "sharp"),
        ({"sharpness": {"sharp": True, "blurred": False}, "why": "edges"}, "sharp"),
        ({"sharpness": {"sharp": True, "blurred": False}, "night": {"yes": True}}, "sharp"),
        ({"tea": {"tea": False}, "coffee": {"coffee": True}}, "coffee"),
        ({"a": {"x": True, "y": False}, "b": {"z": True, "w": False}}, None),
        ({"defect": {"yes": False}}, ""),
        ({"damaged": {"on": True}, "dirty": {"on": False}}, "damaged"),
        ({"damaged": {"on": True}, "dirty": {"on": True}}, "damaged, dirty"),
        ({"correct": {"yes": True}, "blurred": {"yes": False}}, "correct: yes"),
        ({"a: b": {"c": True}, "a": {"b: c": True}, "d": {"c": True}, "e": {"b: c": True}}, None),
        ({"toxic": {"label": "yes"}, "spam": {"label": "yes"}}, None),
        ({"first": "Ana", "last": ""}, None),
        ({"text": " yes "}, "yes"),
        ({"text": ""}, None),
        ({"one": "a", "two": "b"}, None),
        ({"boxes": {"boundingBoxes": [{"label": "cow"}]}, "comment": "two"}, None),
        ({}, None),
        ("7", "7"),
        (7, "7"),
        (True, "true"),
        (["b", "a"], "a, b"),
        (["a, b"], '["a, b"]'),
        ({"fault": {"a, b": True, "a": False, "b": False}}, "a, b"),
        ({"fault": {"a, b": False, "a": True, "b": True}}, '["a", "b"]'),
        ([{"box": 1}], None),
        (None, None),
    ],
)  # fmt: skip
def test_the_label_of_an_answer_is_the_same_for_the_portal_and_the_operator(
    content: Any, expected: str | None
) -> None:
    assert label_of(content) == expected
    assert as_label(content) == expected


@pytest.mark.parametrize(
    "states",
    [
        {"damaged": "on", "dirty": "on", "torn": "on"},
        {"correct": "yes", "blurred": "yes"},
        {"tea": "tea", "coffee": "coffee"},
        {"tea": "tea", "on": "on", "other": "on"},
        {"a, b": "on", "a": "on", "b": "on"},
    ],
)
def test_boxes_that_are_ticked_otherwise_have_another_label(states: dict[str, str]) -> None:
    contents = [
        {name: {state: on} for (name, state), on in zip(states.items(), ticked, strict=True)}
        for ticked in itertools.product([False, True], repeat=len(states))
    ]
    assert len({label_of(content) for content in contents}) == len(contents)
