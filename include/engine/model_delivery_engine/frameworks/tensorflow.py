"""TensorFlow: a SavedModel folder or a frozen graph (``.pb``), through tf2onnx."""

import dataclasses
import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason, one_line
from model_delivery_engine.frameworks.conversion import (
    OPSET,
    Conversion,
    Converted,
    Runner,
    only,
    with_shapes,
    with_suffix,
)

ENVIRONMENT = "tensorflow"
_SAVE = "pack one SavedModel folder (saved_model.pb and variables/) or one frozen graph (.pb)"
_NUMBERED = re.compile(r"output_(\d+)")
_UNSUPPORTED = re.compile(
    r"(?:Tensorflow op \[|Unsupported ops: Counter\(\{')([^'\]:]+)[:\s']*([^\]']*)"
)


def find(folder: Path) -> Path:
    """Return the folder of the one SavedModel, or the one frozen graph."""
    graphs = with_suffix(folder, ".pb")
    saved = [path for path in graphs if path.name == "saved_model.pb"]
    if saved:
        return only(saved, folder, "saved_model.pb", _SAVE).parent
    # A SavedModel keeps further graphs of its own beside the first.
    return only(graphs, folder, "TensorFlow model", _SAVE)


def convert(task: Conversion) -> Converted:
    """Convert inside the environment."""
    if task.source.is_dir():
        task = dataclasses.replace(task, source=_without_slots(task.source))
        signature = task.options.get("signature_def_key", "serving_default")
        task, run = _saved_model(task, signature)
        arguments = ["--saved-model", str(task.source), "--signature_def", signature]
        convert_with_tf2onnx(arguments, task)
        return Converted(run)
    return _frozen(task)


def convert_with_tf2onnx(arguments: list[str], task: Conversion, how: str = _SAVE) -> None:
    """Run tf2onnx's own command, and give the inputs the names of DataInputConfig.

    :param how: how to make an archive that can be converted
    :raises ConversionError: the operator that it cannot convert, or its last words
    """
    more = "model_delivery_engine.frameworks.tensorflow_operators"
    command = [sys.executable, "-m", more, *arguments]
    command += ["--output", str(task.into), "--opset", str(OPSET)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    if found := _UNSUPPORTED.search(text):
        operator = found[2].strip(" :,") or found[1]
        raise ConversionError(
            f"TensorFlow operator {operator!r} has no ONNX form in tf2onnx; "
            "replace the layer that uses it, or export the model to ONNX yourself",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=operator,
        )
    if done.returncode or not task.into.is_file():
        print(text)
        last = text.strip().splitlines()[-1:] or ["no message"]
        raise ConversionError(
            f"tf2onnx cannot convert the model: {one_line(last[0][-400:])}; {how}"
        )
    name_inputs(task)


def name_inputs(task: Conversion) -> None:
    """Name the ONNX inputs as DataInputConfig does: TensorFlow adds ``:0`` and a prefix.

    Outputs lose their ``:0`` too.
    """
    import onnx

    model = onnx.load(task.into)
    renames = {node.name: node.name.partition(":")[0] for node in model.graph.output}
    if len(set(renames.values())) < len(renames):  # outputs of one operator: the number tells them
        renames = {}
    for node in model.graph.input:
        plain = node.name.partition(":")[0]
        wanted = [n for n in task.shapes if n in (node.name, plain, f"{plain}:0")]
        wanted += [n for n in task.shapes if plain == f"serving_default_{n}"]
        renames[node.name] = wanted[0] if wanted else plain
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.name = renames.get(tensor.name, tensor.name)
    for node in _nodes(model.graph):
        for names in (node.input, node.output):
            names[:] = [renames.get(name, name) for name in names]
    onnx.save(model, task.into)


def sort_outputs(task: Conversion) -> None:
    """Write the converted model's outputs in the order of their numbers, where they have them."""
    import onnx

    model = onnx.load(task.into)
    places = [_NUMBERED.fullmatch(node.name) for node in model.graph.output]
    numbers = [int(place[1]) for place in places if place]
    if len(numbers) < len(places):
        return
    outputs = [
        model.graph.output[at] for at in sorted(range(len(numbers)), key=numbers.__getitem__)
    ]
    copies = [type(node).FromString(node.SerializeToString()) for node in outputs]
    del model.graph.output[:]
    model.graph.output.extend(copies)
    onnx.save(model, task.into)


def given_names(task: Conversion) -> list[str]:
    """Return the names of the converted model's inputs, in order."""
    return [node.name for node in _converted(task.into).input]


def output_names(task: Conversion) -> list[str]:
    """Return the names of the converted model's outputs, in order."""
    return [node.name for node in _converted(task.into).output]


@functools.cache
def _converted(path: Path) -> Any:
    import onnx

    return onnx.load(path).graph


def _nodes(graph: Any) -> Any:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _without_slots(source: Path) -> Path:
    """Return a SavedModel without what its optimiser kept of each weight, which answers nothing.

    Keras 2 wrote that into models that were trained, and TensorFlow loads it only where the
    optimiser's class is there, which Keras 3 has not.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((source / "saved_model.pb").read_bytes())
    except Exception:  # TensorFlow says better what it is not
        return source
    nodes = [node for graph in saved.meta_graphs for node in graph.object_graph_def.nodes]
    if not any(node.slot_variables for node in nodes):
        return source
    for node in nodes:
        node.ClearField("slot_variables")
    # What lies beside the graph stays where it is.
    plain = Path(tempfile.mkdtemp(prefix="without-slots-"))
    for each in source.iterdir():
        (plain / each.name).symlink_to(each.resolve())
    (plain / "saved_model.pb").unlink()
    (plain / "saved_model.pb").write_bytes(saved.SerializeToString())
    return plain


def _saved_model(task: Conversion, signature: str) -> tuple[Conversion, Runner]:
    """Return the task with its inputs' shapes, and what runs the model."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(task.source))
    except Exception as error:
        raise ConversionError(
            f"TensorFlow cannot load the SavedModel: {one_line(error, 300)}; {_SAVE}",
            reason=Reason.MODEL_UNREADABLE,
        ) from error
    if signature not in loaded.signatures:
        known = ", ".join(loaded.signatures) or "none"
        raise ConversionError(
            f"the SavedModel has no signature {signature!r} (it has: {known}); save it with "
            'one, or name it: CompilerOptions {"signature_def_key": …}',
            reason=Reason.OPTIONS_INVALID,
        )
    function = loaded.signatures[signature]
    signature_inputs = function.structured_input_signature[1]
    names = list(signature_inputs)
    task = with_shapes(task, {name: _shape(each.shape) for name, each in signature_inputs.items()})
    _check_inputs({name: each.dtype for name, each in signature_inputs.items()}, task)

    def run(arrays: list[Any], keep: Any = loaded) -> list[Any]:
        given = dict(zip(given_names(task), arrays, strict=True))
        tensors = {name: tf.constant(_given(name, given)) for name in names}
        answers = function(**tensors)
        return [answers[_answer_name(name, answers)].numpy() for name in output_names(task)]

    return task, run


def _shape(shape: Any) -> list[int | None] | None:
    """Return a ``tf.TensorShape``'s dimensions, None for any."""
    return None if shape.rank is None else shape.as_list()


def _check_inputs(types: dict[str, Any], task: Conversion) -> None:
    """Hold DataInputConfig against a signature's inputs, before anything is converted."""
    texts = [name for name, dtype in types.items() if dtype.name == "string"]
    if texts:
        raise ConversionError(
            f"input {texts[0]!r} takes strings, for which no samples can be drawn; export the "
            "model without its text preprocessing",
            reason=Reason.TENSOR_UNSUPPORTED,
        )
    unknown = [name for name in task.shapes if _plain(name) not in types]
    if unknown or len(task.shapes) != len(types):
        raise ConversionError(
            f"DataInputConfig names {', '.join(task.shapes) or 'nothing'}; the signature's inputs "
            f"are {', '.join(sorted(types)) or 'none'}: name each of them",
            reason=Reason.DATA_INPUT_INVALID,
        )


def _plain(name: str) -> str:
    return name.partition(":")[0].removeprefix("serving_default_")


def _given(name: str, given: dict[str, Any]) -> Any:
    """Return an input by its signature's name, whatever TensorFlow put around it."""
    return given[name] if name in given else {_plain(n): a for n, a in given.items()}[name]


def _answer_name(name: str, answers: Any) -> str:
    return name if name in answers else name.partition(":")[0]


def _frozen(task: Conversion) -> Converted:
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(task.source.read_bytes())
    except Exception as error:
        raise ConversionError(
            f"{task.source.name} is no frozen TensorFlow graph ({one_line(error, 200)}); {_SAVE}",
            reason=Reason.MODEL_UNREADABLE,
        ) from error
    task = with_shapes(
        task,
        {
            node.name: _shape(tf.TensorShape(node.attr["shape"].shape))
            for node in definition.node
            if node.op == "Placeholder"
        },
    )
    inputs, outputs = _frozen_ends(definition, task)
    shapes = [f"{name}[{','.join(map(str, task.shapes[given]))}]" for given, name in inputs.items()]
    arguments = ["--graphdef", str(task.source), "--inputs", ",".join(shapes)]
    convert_with_tf2onnx([*arguments, "--outputs", ",".join(outputs)], task)

    given = given_names(task)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    session = tf.compat.v1.Session(graph=graph)

    def run(arrays: list[Any]) -> list[Any]:
        feed = {inputs[name]: a for name, a in zip(given, arrays, strict=True)}
        return list(session.run(outputs, feed))

    return Converted(run)


def _frozen_ends(definition: Any, task: Conversion) -> tuple[dict[str, str], list[str]]:
    """Return the placeholders by the names of DataInputConfig, and the graph's results.

    A result is every output of a node that no other consumes and that depends on an input. What
    depends on none (a constant left over from training) is no answer to anything.
    """
    placeholders = {node.name for node in definition.node if node.op == "Placeholder"}
    inputs = {given: f"{given.partition(':')[0]}:0" for given in task.shapes}
    unknown = [given for given, name in inputs.items() if name[:-2] not in placeholders]
    if unknown or len(inputs) != len(placeholders):
        raise ConversionError(
            f"DataInputConfig names {', '.join(task.shapes) or 'nothing'}; the graph's inputs are "
            f"{', '.join(sorted(placeholders)) or 'none'}: name each of them",
            reason=Reason.DATA_INPUT_INVALID,
        )
    sources = {
        node.name: [name.lstrip("^").partition(":")[0] for name in node.input]
        for node in definition.node
    }
    used = {name for names in sources.values() for name in names}
    depending = _depending(sources, placeholders)
    ends = [
        node
        for node in definition.node
        if node.name not in used | placeholders and node.name in depending and node.op != "NoOp"
    ]
    outputs = [name for node in ends for name in _outputs(definition, node)]
    if not outputs:
        raise ConversionError(
            f"{task.source.name}: nothing in the graph depends on its inputs; freeze it with the "
            "nodes that answer",
            reason=Reason.MODEL_INVALID,
        )
    return inputs, outputs


def _depending(sources: dict[str, list[str]], placeholders: set[str]) -> set[str]:
    """Return the nodes that depend on a placeholder."""
    takers: dict[str, list[str]] = {}
    for name, given in sources.items():
        for source in given:
            takers.setdefault(source, []).append(name)
    found, waiting = set(placeholders), list(placeholders)
    while waiting:
        for name in takers.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def _outputs(definition: Any, node: Any) -> list[str]:
    """Return the names of a node's outputs."""
    import tensorflow as tf

    # In inference a normalisation's further outputs are its own statistics.
    if node.op.startswith("FusedBatchNorm"):
        return [f"{node.name}:0"]
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    return [tensor.name for tensor in graph.get_operation_by_name(node.name).outputs]
