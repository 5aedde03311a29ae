"""Forms as Textract's AnalyzeDocument gives them: blocks, and the key-value pairs among them.

Source: Amazon Textract developer guide, "Form data (key-value pairs)".
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.inferences import member

SELECTED = "SELECTED"
NO_KEY = "(no key)"


@dataclass(frozen=True, slots=True)
class FormPair:
    """A key and its value.

    :param confidence: of the pair: the lower of its two blocks'
    :param word_confidences: of each word of key and value
    :param block_ids: of both blocks and all that belongs to them
    :param value_id: of the value's block; empty where there is none
    """

    key: str
    value: str
    confidence: float
    word_confidences: tuple[float, ...]
    block_ids: frozenset[str]
    key_id: str
    value_id: str


@dataclass(frozen=True, slots=True)
class Form:
    """The pairs of one document.

    :param identity: what tells this input from others; sampling goes by it
    """

    identity: bytes
    pairs: Sequence[FormPair]
    by_key: Mapping[str, Sequence[FormPair]] = field(default_factory=dict)


def form(identity: bytes, response: Mapping[str, Any]) -> Form:
    """Read an answer of AnalyzeDocument, with names as the API or as a loop has them.

    :raises ReviewError: no blocks, or blocks that name others which are not there
    """
    blocks = blocks_by_id(response)
    pairs = [_pair(each, blocks) for each in blocks.values() if _is_key(each)]
    by_key: dict[str, list[FormPair]] = {}
    for pair in pairs:
        by_key.setdefault(plain(pair.key), []).append(pair)
    return Form(identity, pairs, by_key)


def named_pairs(pairs: Iterable[FormPair]) -> dict[str, FormPair]:
    """Return pairs by names of their own, in order: the key; from its second on, ``key (2)``."""
    named: dict[str, FormPair] = {}
    numbers: dict[str, int] = {}
    for pair in pairs:
        named[free_name(pair.key, named, numbers)] = pair
    return named


def free_name(key: str, taken: Container[str], numbers: dict[str, int] | None = None) -> str:
    """Return a key as a name that is not taken yet.

    :param numbers: how often each key came before, where there are many to name
    """
    key = key or NO_KEY
    number = (numbers or {}).get(key, 0) + 1
    name = key if number == 1 else f"{key} ({number})"
    while name in taken:
        number += 1
        name = f"{key} ({number})"
    if numbers is not None:
        numbers[key] = number
    return name


def blocks_by_id(response: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the blocks of an answer by their ids, in order."""
    blocks = member(response, "blocks")
    if not isinstance(blocks, list):
        raise ReviewError("this is no answer of AnalyzeDocument: it has no Blocks")
    return {str(member(block, "id")): block for block in blocks}


def plain(key: str) -> str:
    """Return a key with its white space made single; conditions compare keys so."""
    return " ".join(key.split())


def related(block: Mapping[str, Any], kind: str) -> list[str]:
    """Return the ids of the blocks that a block relates to as VALUE or CHILD."""
    relations: Iterable[Mapping[str, Any]] = member(block, "relationships") or ()
    return [str(each) for one in relations if member(one, "type") == kind
            for each in member(one, "ids")]  # fmt: skip


def _is_key(block: Mapping[str, Any]) -> bool:
    kind = member(block, "blockType")
    return kind == "KEY_VALUE_SET" and "KEY" in (member(block, "entityTypes") or ())


def _pair(key: Mapping[str, Any], blocks: Mapping[str, Mapping[str, Any]]) -> FormPair:
    key_id = str(member(key, "id"))
    try:
        values = [blocks[each] for each in related(key, "VALUE")]
        key_words = [blocks[each] for each in related(key, "CHILD")]
        value_words = [blocks[each] for value in values for each in related(value, "CHILD")]
    except KeyError as error:
        raise ReviewError(
            f"block {key_id} relates to block {error}, which is not among the Blocks: "
            "give the whole answer of AnalyzeDocument"
        ) from None
    members = [key, *values, *key_words, *value_words]
    return FormPair(
        key=_own_text([key]) or _text(key_words),
        value=_own_text(values) or _text(value_words),
        confidence=min(float(member(each, "confidence")) for each in [key, *values]),
        word_confidences=tuple(
            float(member(each, "confidence")) for each in [*key_words, *value_words]
        ),
        block_ids=frozenset(str(member(each, "id")) for each in members),
        key_id=key_id,
        value_id=str(member(values[0], "id")) if values else "",
    )


def _own_text(blocks: Iterable[Mapping[str, Any]]) -> str:
    """Return the text that a reviewer gave a block: the service's own have words instead."""
    return " ".join(str(member(block, "text") or "") for block in blocks).strip()


def _text(words: Iterable[Mapping[str, Any]]) -> str:
    return " ".join(str(member(word, "text") or member(word, "selectionStatus") or "")
                    for word in words)  # fmt: skip
