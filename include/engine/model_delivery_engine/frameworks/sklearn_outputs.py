"""scikit-learn's outputs: what skl2onnx makes of them, and what the estimator answers for each.

skl2onnx declares shapes that some of its models do not answer in, gives several targets as a
sequence, and takes one-against-the-rest labels from probabilities that single precision has no
digits for. Here they are made to say what scikit-learn says.
"""

from typing import Any

# What scikit-learn calls the outputs that skl2onnx gives an estimator; the first that it has.
_METHODS = {
    "label": ("predict",),
    "output_label": ("predict",),
    "probabilities": ("predict_proba", "decision_function"),
    "output_probability": ("predict_proba", "decision_function"),
    "scores": ("decision_function", "transform"),
    "variable": ("predict", "transform"),
    "std": (),
}
_TARGET = "_of_target_"  # between an output's name and the number of the target that it is of
_ROWS = (2, 3)  # tried on: what differs between them is the batch


def answers(model: Any, graph: Any, arrays: list[Any]) -> list[Any]:
    """Return what scikit-learn answers for each output, None for one that it has no method for."""
    return [_answer(model, node, place, arrays[0]) for place, node in enumerate(graph.output)]


def _answer(model: Any, node: Any, place: int, rows: Any) -> Any:
    output, _, target = node.name.partition(_TARGET)
    for method in _METHODS.get(output, ("predict", "transform") if place == 0 else ()):
        if not hasattr(model, method):
            continue
        answer = getattr(model, method)(rows)
        if isinstance(answer, list):  # one for each target
            return answer[int(target)] if target else _stacked(answer)
        answer = answer.toarray() if hasattr(answer, "toarray") else answer
        answer = answer.astype("int64") if answer.dtype.kind in "iub" else answer
        rank = len(node.type.tensor_type.shape.dim)
        return answer if answer.ndim == rank else answer.reshape(len(answer), -1)
    return None


def _stacked(targets: list[Any]) -> Any:
    """Return the probabilities of several targets in one array; zeros where one has no class."""
    import numpy as np

    most = max(each.shape[1] for each in targets)
    return np.stack([np.pad(each, ((0, 0), (0, most - each.shape[1]))) for each in targets])


def declare(converted: Any, model: Any, batch: int | None, features: int) -> None:
    """Declare the ONNX model's outputs in the shapes that they are answered in.

    :param batch: rows of its input, None for any number
    """
    import numpy as np

    _declare_ranks(converted)
    try:
        several = [
            answers(model, converted.graph, [np.zeros((rows, features))])
            for rows in (_ROWS if batch is None else (batch, batch))
        ]
    except Exception:  # an estimator that refuses zeros; the shapes stay open
        return
    for node, one, other in zip(converted.graph.output, *several, strict=True):
        dimensions = node.type.tensor_type.shape.dim
        if one is None or len(dimensions) != one.ndim:
            continue
        for dimension, size, again in zip(dimensions, one.shape, other.shape, strict=True):
            if size == again:
                dimension.dim_value = size


def _declare_ranks(converted: Any) -> None:
    """Leave of the declared shapes their ranks, or those that ONNX infers."""
    import onnx

    ranks = {n.name: len(n.type.tensor_type.shape.dim) for n in converted.graph.output}
    for node in converted.graph.output:
        node.type.tensor_type.ClearField("shape")
    for node in onnx.shape_inference.infer_shapes(converted).graph.output:
        if node.type.tensor_type.HasField("shape"):
            ranks[node.name] = len(node.type.tensor_type.shape.dim)
    for node in converted.graph.output:
        for _ in range(ranks[node.name]):
            node.type.tensor_type.shape.dim.add()


def part_sequences(graph: Any) -> None:
    """Make each output that is a sequence of tensors one output for each of them."""
    import onnx

    makers = {name: node for node in graph.node for name in node.output}
    parted: list[Any] = []
    for output in graph.output:
        maker = makers.get(output.name)
        if maker is None or maker.op_type != "SequenceConstruct":
            parted.append(type(output).FromString(output.SerializeToString()))
            continue
        element = output.type.sequence_type.elem_type.tensor_type.elem_type
        for target, name in enumerate(maker.input):
            own = f"{output.name}{_TARGET}{target}"
            graph.node.append(onnx.helper.make_node("Identity", [name], [own], own))
            parted.append(onnx.helper.make_tensor_value_info(own, element, [None, None]))
        graph.node.remove(maker)
    del graph.output[:]
    graph.output.extend(parted)


def is_one_of_logistic_each(model: Any) -> bool:
    """Tell whether a model is one logistic regression for each of several classes.

    Its probabilities are sigmoids that are shared out. Those of a row far from all classes are
    zero in single precision, all of them, and the label is then the first one's.
    """
    if type(model).__name__ != "OneVsRestClassifier" or getattr(model, "multilabel_", True):
        return False
    kinds = {type(each).__name__ for each in model.estimators_}
    return kinds == {"LogisticRegression"} and len(model.estimators_) > 1


def share_out(graph: Any) -> None:
    """Turn the scores of such a model into its probabilities: s(a) / (s(a) + s(b) + …).

    That is the softmax of the sigmoids' logarithms, which single precision has digits for.
    """
    import onnx

    name = "probabilities"
    scores, steps = f"{name}_scores", (f"{name}_negated", f"{name}_soft", f"{name}_logarithms")
    for node in graph.node:
        node.output[:] = [scores if each == name else each for each in node.output]
        node.input[:] = [scores if each == name else each for each in node.input]
    make = onnx.helper.make_node
    graph.node.extend(
        [
            make("Neg", [scores], [steps[0]], steps[0]),
            make("Softplus", [steps[0]], [steps[1]], steps[1]),
            make("Neg", [steps[1]], [steps[2]], steps[2]),
            make("Softmax", [steps[2]], [name], name, axis=1),
        ]
    )
