"""What JSON localcloud takes: what it can also show and write again."""

import pytest
from model_delivery_localcloud import strict_json


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": [1e999]}', "1e999 is too large a number"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "half of a surrogate pair"),
        ("[" * 102 + "]" * 102, "deeper than 100 levels"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5_000, "digits"),
    ],
)
def test_what_could_not_be_written_again_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        strict_json.loads(text)


@pytest.mark.parametrize(
    "text", ['"\\ud83d\\ude00"', "1e308", "[" * 100 + "]" * 100, '{"a": "\\u0000"}']
)
def test_what_is_only_unusual_is_taken(text: str) -> None:
    strict_json.loads(text)
