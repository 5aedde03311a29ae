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
_LABEL, _PROBABILITIES = "label", "probabilities"
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
    from model_delivery_engine.shape_inference import infer_shapes

    ranks = {n.name: len(n.type.tensor_type.shape.dim) for n in converted.graph.output}
    for node in converted.graph.output:
        node.type.tensor_type.ClearField("shape")
    for node in infer_shapes(converted).graph.output:
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

    name = _PROBABILITIES
    scores, steps = f"{name}_scores", (f"{name}_negated", f"{name}_soft", f"{name}_logarithms")
    _rename(graph, name, scores)
    make = onnx.helper.make_node
    graph.node.extend(
        [
            make("Neg", [scores], [steps[0]], steps[0]),
            make("Softplus", [steps[0]], [steps[1]], steps[1]),
            make("Neg", [steps[1]], [steps[2]], steps[2]),
            make("Softmax", [steps[2]], [name], name, axis=1),
        ]
    )


def decide_once(graph: Any, model: Any) -> None:
    """Leave one column of a decision between two classes, as scikit-learn answers it.

    It is above 0 for the second class. skl2onnx gives a column for each class, or only this one;
    and of a support vector machine the first is it, since the library beneath decides for the first
    class and scikit-learn turns that around.
    """
    import numpy as np
    import onnx

    decides = hasattr(model, "decision_function") and not hasattr(model, "predict_proba")
    makers = {name: node for node in graph.node for name in node.output}
    if not decides or len(getattr(model, "classes_", ())) != 2 or _PROBABILITIES not in makers:
        return
    maker = makers[_PROBABILITIES]
    while maker.op_type in ("Cast", "Identity") and maker.input[0] in makers:
        maker = makers[maker.input[0]]
    column = np.array([0 if maker.op_type == "SVMClassifier" else -1])
    both, place = f"{_PROBABILITIES}_of_both", f"{_PROBABILITIES}_column"
    _rename(graph, _PROBABILITIES, both)
    graph.initializer.append(onnx.numpy_helper.from_array(column, place))
    node = onnx.helper.make_node("Gather", [both, place], [_PROBABILITIES], place, axis=1)
    graph.node.append(node)


def discriminate(graph: Any, model: Any) -> None:
    """Take a discriminant analysis' probabilities of two classes as scikit-learn does.

    They are the logistic function of its decision; skl2onnx takes the softmax of the decision and
    its negative, which is that of twice the decision.
    """
    if type(model).__name__ != "LinearDiscriminantAnalysis" or len(model.classes_) != 2:
        return
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "LinearClassifier" and attribute.name == "post_transform":
                attribute.s = b"LOGISTIC"


def exponentiate(graph: Any, model: Any) -> None:
    """Answer counts and rates of histograms' trees by the exponent that skl2onnx leaves out."""
    import onnx

    link = type(model).__name__ == "HistGradientBoostingRegressor"
    if not link or model.loss not in ("poisson", "gamma"):
        return
    name = graph.output[0].name
    _rename(graph, name, f"{name}_logarithm")
    graph.node.append(onnx.helper.make_node("Exp", [f"{name}_logarithm"], [name], f"{name}_exp"))


def tell_labels_apart(graph: Any, model: Any) -> None:
    """Give a perceptron of several labels the probability of each, as scikit-learn does.

    skl2onnx puts those of its absence before them, as of two classes.
    """
    several = getattr(model, "out_activation_", "") == "logistic" and model.n_outputs_ > 1
    for node in graph.node:
        if several and node.op_type == "Concat" and _PROBABILITIES in node.output:
            given = node.input[-1]
            node.op_type = "Identity"
            del node.input[:], node.attribute[:]
            node.input.append(given)


def flatten_labels(graph: Any, model: Any, features: int) -> None:
    """Give one target's labels in a vector, as scikit-learn does; some forms have a row of them."""
    import numpy as np
    import onnx

    labels = next((each for each in graph.output if each.name == _LABEL), None)
    if labels is None or len(labels.type.tensor_type.shape.dim) != 2:
        return
    try:
        if model.predict(np.zeros((2, features))).ndim != 1:
            return
    except Exception:  # an estimator that refuses zeros
        return
    rows, shape = f"{_LABEL}_rows", f"{_LABEL}_shape"
    _rename(graph, _LABEL, rows)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), shape))
    graph.node.append(onnx.helper.make_node("Reshape", [rows, shape], [_LABEL], shape))
    del labels.type.tensor_type.shape.dim[1:]


def _rename(graph: Any, name: str, new: str) -> None:
    for node in graph.node:
        node.output[:] = [new if each == name else each for each in node.output]
        node.input[:] = [new if each == name else each for each in node.input]
