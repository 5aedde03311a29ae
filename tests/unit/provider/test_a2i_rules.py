"""The prices and rules that Augmented AI states in prose."""

from typing import Any

import pytest
from model_delivery import a2i
from model_delivery.exceptions import InvalidRequestError

PUBLIC = "arn:aws:sagemaker:us-east-1:394669845002:workteam/public-crowd/default"
PRIVATE = "arn:aws:sagemaker:us-east-1:000000000000:workteam/private-crowd/team"


@pytest.mark.parametrize(
    ("price", "source", "expected"),
    [
        ("0.012", None, (0, 1, 2)),
        ("1.200", None, (1, 20, 0)),
        (0.036, a2i.REKOGNITION, (0, 3, 6)),
        ("2.400", a2i.TEXTRACT, (2, 40, 0)),
        ("1.32", a2i.TEXTRACT, (1, 32, 0)),
    ],
)
def test_a_listed_price_becomes_dollars_cents_and_tenths(
    price: Any, source: str | None, expected: tuple[int, int, int]
) -> None:
    amount = a2i.task_price(price, source, PUBLIC)["AmountInUsd"]
    assert (amount["Dollars"], amount["Cents"], amount["TenthFractionsOfACent"]) == expected


@pytest.mark.parametrize(
    ("price", "source"),
    [("1.32", None), ("1.32", a2i.REKOGNITION), ("0.013", None), ("0.0125", None), ("cheap", None),
     ("nan", None), ("2.52", a2i.TEXTRACT), (-0.012, None), ("0.084", a2i.TEXTRACT)],
)  # fmt: skip
def test_another_price_is_refused_with_the_list(price: Any, source: str | None) -> None:
    with pytest.raises(InvalidRequestError, match=r"Augmented AI takes, in US dollars, 0\.012"):
        a2i.task_price(price, source, PUBLIC)


def test_a_public_team_is_paid_and_a_private_one_is_not() -> None:
    assert a2i.task_price(None, None, PRIVATE) is None
    with pytest.raises(InvalidRequestError, match="task_price is missing"):
        a2i.task_price(None, None, PUBLIC)
    with pytest.raises(InvalidRequestError, match="is no public work team"):
        a2i.task_price("0.036", None, PRIVATE)


def test_a_public_team_sees_nothing_personal() -> None:
    with pytest.raises(InvalidRequestError, match="FreeOfPersonallyIdentifiableInformation"):
        a2i.data_attributes(["FreeOfAdultContent"], PUBLIC)
    given = [a2i.NO_PERSONAL_DATA]
    expected = {"DataAttributes": {"ContentClassifiers": given}}
    assert a2i.data_attributes(given, PUBLIC) == expected
    assert a2i.data_attributes(None, PRIVATE) == {}


def test_conditions_are_held_against_the_grammar_of_their_source() -> None:
    check = {
        "ConditionType": "MissingImportantFormKey",
        "ConditionParameters": {"ImportantFormKey": "a"},
    }
    given = {"Conditions": [check]}
    assert a2i.activation_conditions(given, a2i.TEXTRACT)
    with pytest.raises(InvalidRequestError, match=r"activation_conditions: .*over AWS/Rekognition"):
        a2i.activation_conditions(given, a2i.REKOGNITION)
    with pytest.raises(InvalidRequestError, match="need a request_source"):
        a2i.activation_conditions(given, None)
