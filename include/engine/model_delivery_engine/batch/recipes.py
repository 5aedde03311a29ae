"""What recommenders answer, by Personalize's names, and how a bundle shows it."""

from enum import StrEnum

from model_delivery_engine.errors import BatchError
from model_delivery_engine.manifest import Manifest


class Recipe(StrEnum):
    """What a recommender answers, by Personalize's names."""

    USER_PERSONALIZATION = "user-personalization"  # {"userId"}: the best items for a user
    RELATED_ITEMS = "related-items"  # {"itemId"}: the items most like an item
    PERSONALIZED_RANKING = "personalized-ranking"  # {"userId", "itemList"}: the list in order


_BEST = frozenset({"items", "scores", "item_scores"})
_SIGNATURES = {
    (frozenset({"user"}), _BEST): Recipe.USER_PERSONALIZATION,
    (frozenset({"item"}), _BEST): Recipe.RELATED_ITEMS,
    (frozenset({"user", "item"}), frozenset({"scores"})): Recipe.PERSONALIZED_RANKING,
}


def recipe_of(manifest: Manifest) -> Recipe:
    """Tell a recommender's recipe from its tensors; BatchError for a model that is none."""
    inputs, outputs = _signature(manifest)
    found = _SIGNATURES.get((inputs, outputs))
    if found is None:
        raise BatchError(
            f"model {manifest.name!r} with inputs {sorted(inputs)} and outputs {sorted(outputs)} "
            "is no recommender; write its bundle with write_recommender_bundle"
        )
    return found


def is_recommender(manifest: Manifest) -> bool:
    """Tell whether a bundle's tensors are a recommender's."""
    return _signature(manifest) in _SIGNATURES


def _signature(manifest: Manifest) -> tuple[frozenset[str], frozenset[str]]:
    inputs = frozenset(spec.name for spec in manifest.inputs)
    return inputs, frozenset(spec.name for spec in manifest.outputs)
