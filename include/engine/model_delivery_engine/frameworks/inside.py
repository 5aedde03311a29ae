"""The process inside the sandbox: `python -m model_delivery_engine.frameworks.inside`.

It reads its task as JSON from the first argument, writes ``model.onnx``, ``reference.npz`` (inputs
drawn from the seed and what the framework's own model answers to them) and ``outcome.json``.
"""

import importlib
import json
import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import EngineError, one_line
from model_delivery_engine.frameworks.conversion import (
    MODEL,
    OUTCOME,
    REFERENCE,
    Conversion,
    Runner,
)


def main() -> None:
    """Convert what the first argument says."""
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING)
    task: dict[str, Any] = json.loads(sys.argv[1])
    into = Path(task["into"])
    try:
        _convert(task, into)
        outcome: dict[str, Any] = {"ok": True}
    except EngineError as error:
        outcome = {
            "ok": False,
            "error": str(error),
            "reason": error.reason.value,
            "operator": error.operator,
        }
    except MemoryError:
        outcome = {"ok": False, "memory": True}
    except Exception as error:
        # What the framework raised is the reason of the failure; the whole of it is in the log.
        traceback.print_exc()
        outcome = {"ok": False, "error": f"{type(error).__name__}: {one_line(error)}"}
    (into / OUTCOME).write_text(json.dumps(outcome))


def _convert(task: dict[str, Any], into: Path) -> None:
    module = importlib.import_module(f"model_delivery_engine.frameworks.{task['module']}")
    shapes = {name: tuple(shape) for name, shape in task["shapes"].items()}
    conversion = Conversion(
        source=Path(task["source"]),
        into=into / MODEL,
        shapes=shapes,
        dtype=task["dtype"],
        allow_code=task["allow_code"],
        options=task["options"],
    )
    converted = module.convert(conversion)
    if converted.run is not None:
        _write_reference(into, shapes, converted.run)


def _write_reference(into: Path, shapes: dict[str, tuple[int, ...]], run: Runner) -> None:
    """Have the framework's own model answer drawn inputs; parity is held to its answers."""
    import numpy as np
    import onnx

    from model_delivery_engine.golden import draw_inputs
    from model_delivery_engine.tensors import TensorSpec

    graph = onnx.load(into / MODEL, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    specs = []
    for node in graph.input:
        if node.name in constants:
            continue
        tensor = node.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        dtype = _DTYPES[np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name]
        specs.append(TensorSpec(node.name, dtype, shapes.get(node.name, dims)))
    inputs = draw_inputs(specs)
    answers = run([inputs[spec.name] for spec in specs])
    arrays = {f"input:{name}": array for name, array in inputs.items()}
    for node, answer in zip(graph.output, answers, strict=True):
        arrays[f"output:{node.name}"] = np.asarray(answer)
    np.savez(into / REFERENCE, **arrays)  # type: ignore[arg-type]


_DTYPES = {
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


if __name__ == "__main__":
    main()
