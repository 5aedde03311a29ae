"""What the steps of a scikit-learn model take: its columns, and the categories in them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from model_delivery_engine.probes import Categories

_MOST = 64  # categories of a column that are drawn
_BITS = 2.0**-16  # of a category: what rounding it to single precision, or noise, may add
_KEEPING = ("SimpleImputer", "KNNImputer", "IterativeImputer")  # each column in its place


def without_search(model: Any) -> Any:
    """Return a model in which each fitted search is the best estimator that it found."""
    while hasattr(model, "best_estimator_"):
        model = model.best_estimator_
    if hasattr(model, "steps"):
        model.steps = [(name, without_search(step)) for name, step in model.steps]
    return model


def number_columns(model: Any) -> None:
    """Have columns go by number, as in the one input: skl2onnx looks names up among the inputs.

    A model that was fitted on a data frame knows their order. A mask it takes for numbers.
    """
    for each in within(model):
        places = {name: place for place, name in enumerate(getattr(each, "feature_names_in_", ()))}
        if hasattr(each, "transformers_"):
            each.transformers_ = [
                (name, step, _numbered(columns, places))
                for name, step, columns in each.transformers_
            ]


def within(model: Any) -> Iterator[Any]:
    """Yield a model, and what its pipelines and transformers are made of."""
    yield model
    held = [*getattr(model, "steps", ()), *getattr(model, "transformer_list", ())]
    for part in (*held, *getattr(model, "transformers_", ())):
        yield from within(part[1])


def _numbered(columns: Any, places: Mapping[str, int]) -> Any:
    if isinstance(columns, str):
        return places[columns]
    if isinstance(columns, slice) or np.ndim(columns) == 0:
        return columns
    if np.asarray(columns).dtype.kind == "b":
        return np.flatnonzero(columns).tolist()
    return [places[each] if isinstance(each, str) else each for each in columns]


def encodes_texts(model: Any) -> bool:
    """Tell whether an encoder in a model was fitted on texts."""
    columns = (values for each in within(model) for values in getattr(each, "categories_", ()))
    return any(isinstance(value, str) for values in columns for value in values)


def categories_of(model: Any, columns: Sequence[int]) -> dict[int, tuple[float, ...]]:
    """Return the categories of columns that an encoder takes as they come.

    :param columns: the model's own, as places in the one input
    :returns: by place, at most 64 each; none of a column of texts
    """
    if hasattr(model, "categories_"):
        found = {
            place: _numbers(values)
            for place, values in zip(columns, model.categories_, strict=False)
        }
        return {place: values for place, values in found.items() if values}
    for _, step in getattr(model, "steps", ()):
        if found := categories_of(step, columns):
            return found
        if step not in (None, "passthrough") and type(step).__name__ not in _KEEPING:
            return {}
    found = {}
    for _, step in getattr(model, "transformer_list", ()):
        found |= categories_of(step, columns)
    for _, step, taken in getattr(model, "transformers_", ()):
        found |= categories_of(step, np.atleast_1d(np.asarray(columns)[taken]).tolist())
    return found


def _numbers(values: Any) -> tuple[float, ...]:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return ()
    numbers = numbers[np.isfinite(numbers)]
    places = np.linspace(0, len(numbers) - 1, min(len(numbers), _MOST)).astype(int)
    return tuple(numbers[places].tolist())


def with_exact_categories(
    run: Callable[[list[Any]], Sequence[Any]], categories: Categories
) -> Callable[[list[Any]], Sequence[Any]]:
    """Return what runs a model on categories that lost their last bits.

    An encoder has no answer beside a category, or another one: that is no noise of the model.
    """

    def run_exactly(arrays: list[Any]) -> Sequence[Any]:
        table = np.array(arrays[0])
        for place, values in categories.items():
            column, known = table[:, place], np.asarray(values)
            nearest = known[np.abs(column[:, None] - known).argmin(axis=1)]
            near = np.abs(column - nearest) <= _BITS * np.abs(nearest)
            table[:, place] = np.where(near, nearest, column)
        return run([table, *arrays[1:]])

    return run_exactly if categories else run
