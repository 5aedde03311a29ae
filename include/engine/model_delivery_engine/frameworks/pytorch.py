"""PyTorch: a TorchScript file (``torch.jit.save``) or an exported program (``torch.export.save``).

Both are archives that hold the model's code as data. A pickled module or a bare state_dict holds
none that can be read without running it, and is refused with what to save instead.
"""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason, one_line
from model_delivery_engine.frameworks.conversion import (
    BATCH_NAME,
    OPSET,
    Conversion,
    Converted,
    only,
    with_shapes,
    with_suffix,
)
from model_delivery_engine.frameworks.pytorch_operators import register_operators

ENVIRONMENT = "pytorch"
_SAVE = (
    "save it with torch.jit.save(torch.jit.trace(model.eval(), example), 'model.pt') "
    "or torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"
)
_TYPES = (
    'say each input\'s, CompilerOptions {"dtype": {"ids": "int64", "features": "float32"}}, or use '
    "torch.export, whose programs know theirs"
)
_FLOATS = ("float16", "float32", "float64")
_UNSUPPORTED = re.compile(r"operator '([\w:.]+)'|operator (\w+)")
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
    if kind_of(task.source) == "torchscript":
        return _from_torchscript(torch, task)
    return _from_program(torch, task)


def in_order(given: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return the names of DataInputConfig in the order of the model's own inputs.

    Names that are the model's own say which input is meant, in whatever order they come. Names that
    are none of them are attached by their position.

    :raises ConversionError: another number of inputs, or names of which some are the model's and
        stand where another input is
    """
    listing = ", ".join(own)
    if len(given) != len(own):
        raise ConversionError(
            f"DataInputConfig gives {len(given)} inputs, the model takes {len(own)} ({listing}); "
            "give each one",
            reason=Reason.DATA_INPUT_INVALID,
        )
    if set(given) == set(own):
        return list(own)
    wrong = [n for n, theirs in zip(given, own, strict=True) if n in own and n != theirs]
    if wrong:
        raise ConversionError(
            f"DataInputConfig names {', '.join(given)}, the model's inputs are {listing}: "
            f"{wrong[0]!r} stands where another input is; give the model's own names, or others",
            reason=Reason.DATA_INPUT_INVALID,
        )
    return list(given)


def _example(torch: Any, shape: tuple[int, ...], dtype: str, value: Any = None) -> Any:
    sizes = [_OPEN_BATCH_EXAMPLE if size == -1 else size for size in shape]
    kind = getattr(torch, dtype)
    if value is not None:
        return torch.tensor(value, dtype=kind).expand(sizes).contiguous()
    if not kind.is_floating_point:
        return torch.zeros(sizes, dtype=kind)
    return torch.rand(sizes, generator=torch.Generator().manual_seed(0), dtype=kind)


def _from_torchscript(torch: Any, task: Conversion) -> Converted:
    model = torch.jit.load(str(task.source), map_location="cpu").eval()
    arguments = model._c._get_method("forward").schema.arguments[1:]
    own = [each.name.partition(".")[0] for each in arguments]
    needed = [n for n, each in zip(own, arguments, strict=True) if not each.has_default_value()]
    task = with_shapes(task, dict.fromkeys(needed))  # TorchScript says the shape of none
    names = in_order(list(task.shapes), own if len(task.shapes) == len(own) else needed)
    types = [task.dtypes.get(name, task.dtype) for name in names]
    if unknown := sorted(set(task.dtypes) - set(names)):
        raise ConversionError(
            f'CompilerOptions: "dtype" names {unknown[0]!r}, which is no input; they are '
            f"{', '.join(names)}",
            reason=Reason.OPTIONS_INVALID,
        )
    examples = tuple(
        _example(torch, task.shapes[name], dtype, task.values.get(name))
        for name, dtype in zip(names, types, strict=True)
    )
    answers = _tried(torch, model, names, examples)
    if len(names) > 1 and not task.dtypes and task.dtype not in _FLOATS:
        _refuse_mixed(torch, model, names, examples, task.dtype)
    outputs = [f"output{n}" for n in range(len(answers))]
    open_names = [name for name in names if task.shapes[name][:1] == (-1,)]
    axes = {name: {0: BATCH_NAME} for name in open_names}
    if open_names:
        axes |= {name: {0: BATCH_NAME} for name, a in zip(outputs, answers, strict=True) if a.dim()}
    register_operators()
    try:
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
    except RuntimeError as error:
        # The exporter's own faults, which it asks to report to PyTorch, are no other's either.
        known = isinstance(error, torch.onnx.errors.OnnxExporterError)
        if not known and "INTERNAL ASSERT" not in str(error):
            raise
        raise _unsupported(error) from error
    return Converted(_runner(torch, model))


def _unsupported(error: Exception) -> ConversionError:
    """Return the error for what PyTorch's exporter has no ONNX form of."""
    # What follows is where in the program it stands.
    text = str(error).partition("[Caused by")[0].partition("Please feel free")[0]
    found = _UNSUPPORTED.search(text)
    operator = (found[1] or found[2]) if found else None
    what = f"operator {operator!r}" if operator else "this TorchScript"
    return ConversionError(
        f"PyTorch has no ONNX form for {what}: {one_line(text, 300)}; "
        f"{'replace it by others, or' if operator else 'instead,'} save the model with "
        "torch.export.save, whose exporter knows more",
        reason=Reason.OPERATOR_UNSUPPORTED,
        operator=operator,
    )


def _tried(torch: Any, model: Any, names: list[str], examples: tuple[Any, ...]) -> list[Any]:
    """Run the model on examples; a data type that it does not take is said with the option."""
    try:
        with torch.no_grad():
            return _flatten(torch, model(*examples))
    except RuntimeError as error:
        text = str(error)
        if "scalar type" not in text and "dtype" not in text and "indices" not in text:
            raise
        given = ", ".join(
            f"{name} {str(example.dtype).removeprefix('torch.')}"
            for name, example in zip(names, examples, strict=True)
        )
        last = one_line(text.strip().splitlines()[-1], 200)
        raise ConversionError(
            f"the model does not take inputs of these data types ({given}): {last}; {_TYPES}",
            reason=Reason.DATA_INPUT_INVALID,
        ) from error


def _refuse_mixed(
    torch: Any, model: Any, names: list[str], examples: tuple[Any, ...], dtype: str
) -> None:
    """Refuse one integer type for inputs of which some may be floats: TorchScript does not say.

    An input that takes floats while another takes none was likely meant to: as an integer it could
    not be given them any more.
    """
    floats = []
    for place, name in enumerate(names):
        tried = list(examples)
        tried[place] = torch.rand(tried[place].shape)
        try:
            with torch.no_grad():
                model(*tried)
        except Exception:  # each operator refuses a type in its own way
            continue
        floats.append(name)
    if floats and len(floats) < len(names):
        others = [name for name in names if name not in floats]
        raise ConversionError(
            f"dtype {dtype} would hold for every input, but {', '.join(floats)} takes floats too, "
            f"which {', '.join(others)} does not; {_TYPES}",
            reason=Reason.DATA_INPUT_INVALID,
        )


def _from_program(torch: Any, task: Conversion) -> Converted:
    program = torch.export.load(str(task.source))
    own = list(program.graph_signature.user_inputs)
    # What is given none has its own, which the exporter writes.
    names = in_order(list(task.shapes), own) if task.shapes else own
    exported = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
    taken = [str(value.name) for value in exported.model.graph.inputs]
    if len(taken) != len(names):
        raise ConversionError(
            f"the exported program takes {', '.join(own)}, of which its ONNX form has "
            f"{', '.join(taken) or 'none'}: an input that nothing depends on; leave it out of the "
            "model",
            reason=Reason.DATA_INPUT_INVALID,
        )
    for value, name in zip(exported.model.graph.inputs, names, strict=True):
        value.name = name
    exported.save(str(task.into))
    return Converted(_runner(torch, _by_position(torch, program)))


def _by_position(torch: Any, program: Any) -> Any:
    """Return a program that takes its inputs one after the other, keywords and nests among them."""
    module, spec = program.module(), program.call_spec.in_spec

    def call(*tensors: Any) -> Any:
        positional, named = torch.utils._pytree.tree_unflatten(tensors, spec)
        return module(*positional, **named)

    return call


def _runner(torch: Any, model: Any) -> Any:
    def run(arrays: list[Any]) -> list[Any]:
        try:
            with torch.no_grad():
                answers = _flatten(torch, model(*(torch.from_numpy(array) for array in arrays)))
        except RuntimeError as error:
            # TorchScript says where in the program before it says what.
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
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
