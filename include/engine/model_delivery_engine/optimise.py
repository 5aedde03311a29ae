"""Graph optimisation ahead of time, portable between machines of any architecture."""

from pathlib import Path
from typing import Any

import onnxruntime

from model_delivery_engine.errors import CompilationError, InferenceError
from model_delivery_engine.runtime import open_session, session_options

_LEVELS: Any = onnxruntime


def optimise(source: Path, into: Path) -> None:
    """Write the optimised form of an ONNX file.

    The level is ONNX Runtime's EXTENDED: constants folded, nodes fused. Level ALL would add layouts
    of the processor it runs on, which another device could not load.

    :raises CompilationError: a model that ONNX Runtime cannot load
    """
    options = session_options()
    options.graph_optimization_level = _LEVELS.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(into)
    try:
        open_session(source, options)
    except InferenceError as error:
        raise CompilationError(f"{error}; export the model with operators it supports") from error
    if not into.is_file():
        raise CompilationError(f"{source.name}: ONNX Runtime wrote no optimised model; report this")


def unoptimised_options() -> Any:
    """Session options that run a graph as it was written: the reference that parity is held to."""
    options = session_options()
    options.graph_optimization_level = _LEVELS.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
