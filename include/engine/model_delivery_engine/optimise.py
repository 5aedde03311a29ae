"""Graph optimisation ahead of time, portable between machines of any architecture."""

from pathlib import Path
from typing import Any

import onnxruntime

from model_delivery_engine.disk import refuse_full
from model_delivery_engine.errors import (
    CompilationError,
    InferenceError,
    MemoryShortError,
    Reason,
)
from model_delivery_engine.runtime import open_session, session_options
from model_delivery_engine.weights import SUFFIX, THRESHOLD

_LEVELS: Any = onnxruntime
_EXTERNAL = "session.optimized_model_external_initializers"
_LEVEL = {
    "fold": "ORT_ENABLE_BASIC",
    "portable": "ORT_ENABLE_EXTENDED",
    "host": "ORT_ENABLE_ALL",
}


def optimise(source: Path, into: Path, level: str = "portable") -> None:
    """Write the optimised form of an ONNX file, as ONNX or, by the suffix ``.ort``, in ORT format.

    ONNX is written with its weights beside it, as `weights.save` lays them.

    :param level: ``fold`` folds constants and keeps standard operators, for a quantiser to read;
        ``portable`` fuses operators too; ``host`` adds layouts of the processor that it runs on,
        which another could not load
    :raises CompilationError: a model that ONNX Runtime cannot load
    :raises DiskFullError: no space for the file
    """
    options = session_options()
    options.graph_optimization_level = getattr(_LEVELS.GraphOptimizationLevel, _LEVEL[level])
    options.optimized_model_filepath = str(into)
    # The session only writes the file; weights rearranged for speed would be a second copy of them.
    options.add_session_config_entry("session.disable_prepacking", "1")
    if into.suffix == ".ort":
        options.add_session_config_entry("session.save_model_format", "ORT")
    else:
        for entry, value in (("file_name", into.name + SUFFIX), ("min_size_in_bytes", THRESHOLD)):
            options.add_session_config_entry(f"{_EXTERNAL}_{entry}", str(value))
    try:
        open_session(source, options)
    except MemoryShortError:
        raise
    except InferenceError as error:
        refuse_full(into.parent, f"{source.name}, optimised")
        raise CompilationError(
            f"{error}; export the model with operators it supports",
            reason=Reason.OPERATOR_UNSUPPORTED,
        ) from error
    if not into.is_file():
        raise CompilationError(f"{source.name}: ONNX Runtime wrote no optimised model; report this")


def unoptimised_options() -> Any:
    """Session options that run a graph as it was written: the reference that parity is held to."""
    options = session_options()
    options.graph_optimization_level = _LEVELS.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options
