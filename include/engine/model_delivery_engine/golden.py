"""Golden inputs: drawn from a seed and the tensor specs alone, so anyone can draw them again."""

from collections.abc import Sequence

import numpy as np

from model_delivery_engine.errors import CompilationError, Reason
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

SEED = 20_240_426
SAMPLES = 4  # where the batch dimension is open


def draw_inputs(specs: Sequence[TensorSpec], *, seed: int = SEED) -> dict[str, Array]:
    """Draw inputs that any model accepts, for a device to answer again and for timing.

    Floating point in [0, 1), as scaled pixels and features are. 8-bit integers over their range, as
    raw pixels are. Wider integers 0 or 1: valid both as a mask and as an index into any vocabulary.
    What a model does elsewhere is what `probes` are for.

    :param specs: the model's inputs; an open dimension becomes 4 samples
    :param seed: seed of the generator
    :raises CompilationError: a model that takes strings
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _draw(generator, spec) for spec in specs}


def _draw(generator: np.random.Generator, spec: TensorSpec) -> Array:
    refuse_strings(spec)
    dtype = NUMPY_TYPES[spec.dtype]
    shape = [SAMPLES if size == -1 else size for size in spec.shape]
    if dtype.kind == "f":
        # Capped, because half precision would round the largest values up to 1. An array also of
        # rank 0, for which the generator returns a bare number.
        return np.asarray(np.minimum(generator.random(shape), 0.999), dtype)
    low, high = 0, 2
    if dtype.itemsize == 1 and dtype.kind in "iu":
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max) + 1
    return np.asarray(generator.integers(low, high, shape), dtype)


def refuse_strings(spec: TensorSpec) -> None:
    """Raise CompilationError for an input of strings."""
    if spec.dtype == "BYTES":
        raise CompilationError(
            f"input {spec.name!r} takes strings, for which no samples can be drawn; "
            "export the model without its text preprocessing",
            reason=Reason.TENSOR_UNSUPPORTED,
        )
