"""Whether a rendered template can be answered with a label."""

import pytest
from model_delivery.human_loops.workflow import asks_for_label


@pytest.mark.parametrize(
    ("categories", "more", "asks"),
    [
        ("[&quot;cat&quot;]", "", True),
        ("['cat', 'dog']", "", True),
        ("[]", "", False),
        ("{}", "", False),
        ("", "", False),
        ("null", "", False),
        ("[]", "<textarea name='why'></textarea>", True),
        ("[]", "<script>make()</script>", True),
    ],
)
def test_a_classifier_without_categories_asks_nothing(
    categories: str, more: str, *, asks: bool
) -> None:
    classifier = f'<crowd-classifier name="a" categories="{categories}"></crowd-classifier>'
    assert asks_for_label(f"<crowd-form>{classifier}{more}</crowd-form>") is asks
