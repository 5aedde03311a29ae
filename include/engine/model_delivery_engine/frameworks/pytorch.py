"""PyTorch: a TorchScript file (``torch.jit.save``) or an exported program (``torch.export.save``).

Both are archives that hold the model's code as data. A pickled module or a bare state_dict holds
none that can be read without running it, and is refused with what to save instead.
"""

import zipfile
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.frameworks.conversion import (
    BATCH_NAME,
    OPSET,
    Conversion,
    Converted,
    only,
    with_suffix,
)

ENVIRONMENT = "pytorch"
_SAVE = (
    "save it with torch.jit.save(torch.jit.trace(model.eval(), example), 'model.pt') "
    "or torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"
)
_OPEN_BATCH_EXAMPLE = 2  # 1 would be taken for a dimension that is broadcast


def find(folder: Path) -> Path:
    """Return the one model file below a folder."""
    found = with_suffix(folder, ".pt", ".pth", ".pt2", ".ts")
    return only(found, folder, "PyTorch file (.pt, .pth, .pt2)", _SAVE)


def refuse(source: Path, allow_code: bool) -> None:
    """Refuse what is no graph; a pickle runs code, and holds none even where that is allowed."""
    kind_of(source)


def kind_of(path: Path) -> str:
    """Return ``torchscript`` or ``exported``; ConversionError for anything else."""
    try:
        with zipfile.ZipFile(path) as file:
            # Members lie in one folder, whose name is the archive's.
            names = {name.partition("/")[2] for name in file.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ConversionError(
            f"{path.name} is no PyTorch archive of the zip format ({error}); {_SAVE}",
            reason=Reason.FRAMEWORK_MISMATCH,
        ) from error
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if "models/model.json" in names or "archive_format" in names:
        return "exported"
    if "data.pkl" in names:
        raise ConversionError(
            f"{path.name} is a pickle (a module or a state_dict), which holds no graph and runs "
            f"code when it is loaded; {_SAVE}",
            reason=Reason.UNTRUSTED_CODE,
        )
    raise ConversionError(
        f"{path.name} is no TorchScript file and no exported program; {_SAVE}",
        reason=Reason.FRAMEWORK_MISMATCH,
    )


def convert(task: Conversion) -> Converted:
    """Convert inside the environment."""
    import torch

    torch.set_num_threads(1)
    examples = tuple(_example(torch, shape, task.dtype) for shape in task.shapes.values())
    if kind_of(task.source) == "torchscript":
        return _from_torchscript(torch, task, examples)
    return _from_program(torch, task, examples)


def _example(torch: Any, shape: tuple[int, ...], dtype: str) -> Any:
    sizes = [_OPEN_BATCH_EXAMPLE if size == -1 else size for size in shape]
    if dtype == "int64":
        return torch.zeros(sizes, dtype=torch.int64)
    return torch.rand(sizes, generator=torch.Generator().manual_seed(0))


def _from_torchscript(torch: Any, task: Conversion, examples: tuple[Any, ...]) -> Converted:
    model = torch.jit.load(str(task.source), map_location="cpu").eval()
    names = list(task.shapes)
    with torch.no_grad():
        answers = _flatten(torch, model(*examples))
    outputs = [f"output{n}" for n in range(len(answers))]
    open_names = [name for name, shape in task.shapes.items() if shape[:1] == (-1,)]
    axes = {name: {0: BATCH_NAME} for name in open_names}
    if open_names:
        axes |= {name: {0: BATCH_NAME} for name, a in zip(outputs, answers, strict=True) if a.dim()}
    torch.onnx.export(
        model,
        examples,
        str(task.into),
        dynamo=False,
        opset_version=OPSET,
        input_names=names,
        output_names=outputs,
        dynamic_axes=axes,
    )
    return Converted(_runner(torch, model))


def _from_program(torch: Any, task: Conversion, examples: tuple[Any, ...]) -> Converted:
    program = torch.export.load(str(task.source))
    exported = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
    model = exported.model
    if len(model.graph.inputs) != len(task.shapes):
        taken = ", ".join(str(value.name) for value in model.graph.inputs)
        raise ConversionError(
            f"DataInputConfig gives {len(task.shapes)} inputs, the exported program takes "
            f"{len(model.graph.inputs)} ({taken}); give each one, in order",
            reason=Reason.DATA_INPUT_INVALID,
        )
    for value, name in zip(model.graph.inputs, task.shapes, strict=True):
        value.name = name
    exported.save(str(task.into))
    return Converted(_runner(torch, program.module()))


def _runner(torch: Any, model: Any) -> Any:
    def run(arrays: list[Any]) -> list[Any]:
        with torch.no_grad():
            answers = _flatten(torch, model(*(torch.from_numpy(array) for array in arrays)))
        return [answer.numpy() for answer in answers]

    return run


def _flatten(torch: Any, answer: Any) -> list[Any]:
    """Return a model's tensors in the order in which the exporter names them."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    if isinstance(answer, dict):
        answer = list(answer.values())
    if not isinstance(answer, (list, tuple)):
        raise ConversionError(
            f"the model returns a {type(answer).__name__}; return tensors, or a tuple of them"
        )
    return [tensor for each in answer for tensor in _flatten(torch, each)]
