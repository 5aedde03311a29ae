"""Valid ONNX graphs grown at random, and changed in ways that leave most of them valid.

Torn bytes end in the parser. What reaches kernels, folding and rewriting is a graph that the
checker takes: one with another attribute, size, type or wire than its author meant.
"""

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_ML = "ai.onnx.ml"
_OPSETS = (18, 19, 21)
_INPUTS = ([1, 4], ["n", 6], [2, 3, 4], [1, 2, 6, 6], ["n", 3, 8, 8])
_DTYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT32,
           TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL)  # fmt: skip
_UNARY = ("Relu", "Exp", "Sigmoid", "Tanh", "Neg", "Abs", "Sqrt", "Log", "Erf", "Softplus", "Floor",
          "Round", "Sign", "Reciprocal", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Identity",
          "Sin", "IsNaN", "GlobalAveragePool", "Softmax", "LogSoftmax", "Shape", "NonZero", "Size",
          "CumSum", "Flatten", "Hardmax")  # fmt: skip
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Mod", "PRelu", "MatMul",
           "Greater", "Equal", "And", "Gather", "Expand", "Tile")  # fmt: skip
_WORDS = (b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"linear", b"nearest", b"cubic", b"reflect", b"",
          b"edge", b"constant", b"ij,jk->ik", b"bi->b", b"SOFTMAX", b"LOGISTIC")  # fmt: skip
_FLOATS = (0.0, -1.0, 1e-30, 1e38, float("nan"), float("inf"), 0.5)
_WHOLE = (0, 1, -1, 2, 3, 7, 255, -(2**31), 2**31, 2**40)


class Graph:
    """A graph that grows node by node, with the types that ONNX infers."""

    def __init__(self, generator: random.Random) -> None:
        self.random = generator
        self.numbers = np.random.default_rng(generator.randrange(2**32))
        self.shapes: dict[str, tuple[int, list[int]]] = {}
        given = generator.choice(_INPUTS)
        imports = [
            helper.make_opsetid("", generator.choice(_OPSETS)), helper.make_opsetid(_ML, 3)
        ]  # fmt: skip
        ends = [helper.make_tensor_value_info("x", FLOAT, given)]
        graph = helper.make_graph([], "fuzz", ends, [])
        self.model = helper.make_model(graph, opset_imports=imports, ir_version=9)
        self.shapes["x"] = (FLOAT, [2 if size == "n" else size for size in given])
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"t{self._names}"

    def constant(self, array: Any) -> str:
        """Add an initialiser; return its name."""
        name = self.name()
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(self.numbers.normal(size=shape).astype(np.float32))

    def add(self, kind: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> bool:
        """Add a node where ONNX's own inference takes it; tell whether it did."""
        names = [self.name() for _ in range(outputs)]
        domain = attributes.pop("domain", "")
        node = helper.make_node(kind, inputs, names, f"{kind}_{names[0]}", domain=domain)
        node.attribute.extend(helper.make_attribute(n, v) for n, v in attributes.items())
        self.model.graph.node.append(node)
        try:
            inferred = onnx.shape_inference.infer_shapes(
                self.model, check_type=True, strict_mode=True
            )
        except Exception:
            self.model.graph.node.pop()
            return False
        for info in inferred.graph.value_info:
            if info.name in names:
                tensor = info.type.tensor_type
                sizes = [d.dim_value or 2 for d in tensor.shape.dim]
                self.shapes[info.name] = (tensor.elem_type, sizes)
        for name in names:  # what ONNX infers nothing behind: ai.onnx.ml
            self.shapes.setdefault(name, (FLOAT, [2, 3]))
        return True

    def pick(self, rank: int | None = None, dtype: int | None = None) -> str | None:
        """Return a tensor of a rank and a type, the later the likelier."""
        found = [
            name
            for name, (kind, shape) in self.shapes.items()
            if rank in (None, len(shape)) and dtype in (None, kind)
        ]
        return found[-min(len(found), self.random.choice([1, 1, 1, 2, 4]))] if found else None


def grown(generator: random.Random) -> onnx.ModelProto:
    """Return a valid model of two to nine nodes."""
    graph = Graph(generator)
    wanted = generator.randrange(2, 10)
    for _ in range(wanted * 3):
        # A template that no tensor here fits adds nothing.
        with contextlib.suppress(ValueError):
            generator.choice(_TEMPLATES)(graph)
        if len(graph.model.graph.node) >= wanted:
            break
    if not graph.model.graph.node:
        graph.add("Relu", ["x"])
    return declared(graph.model, generator)


def changed(generator: random.Random) -> onnx.ModelProto:
    """Return such a model with one to three changes."""
    made = grown(generator)
    for _ in range(generator.choice([1, 1, 2, 3])):
        # An element that is not there to change leaves the model as it is.
        with contextlib.suppress(IndexError, ValueError, TypeError, OverflowError):
            generator.choice(_CHANGES)(made, generator)
    return made if generator.random() < 0.05 else declared(made, generator)


def declared(made: onnx.ModelProto, generator: random.Random) -> onnx.ModelProto:
    """Declare as outputs what no node takes, with the types that ONNX infers for it."""
    del made.graph.output[:]
    del made.graph.value_info[:]
    types: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        inferred = onnx.shape_inference.infer_shapes(made).graph
        types = {each.name: each for each in inferred.value_info}
    taken = {name for node in made.graph.node for name in node.input}
    ends = [name for node in made.graph.node for name in node.output if name not in taken]
    for name in ends or [node.output[0] for node in made.graph.node[-1:] if node.output]:
        info = types.get(name)
        if info is None or not info.type.tensor_type.HasField("shape"):
            # The checker wants one: behind ai.onnx.ml there are rows and columns.
            kind = info.type.tensor_type.elem_type if info is not None else FLOAT
            info = helper.make_tensor_value_info(name, kind, [None, None])
        made.graph.output.append(info)
    return made


def _unary(graph: Graph) -> None:
    kind = graph.random.choice(_UNARY)
    tensor = graph.pick()
    inputs = [tensor or "x"]
    if kind == "CumSum":
        inputs.append(graph.constant(np.int64(graph.random.choice([0, 1, -1]))))
    graph.add(kind, inputs)


def _binary(graph: Graph) -> None:
    one = graph.pick() or "x"
    kind, shape = graph.shapes[one]
    other = graph.pick(len(shape), kind) or one
    if graph.random.random() < 0.6:
        sizes = [size if graph.random.random() < 0.5 else 1 for size in shape]
        values = graph.numbers.normal(size=sizes) * 2
        other = graph.constant(values.astype(helper.tensor_dtype_to_np_dtype(kind)))
    inputs = [one, other] if graph.random.random() < 0.8 else [other, one]
    graph.add(graph.random.choice(_BINARY), inputs)


def _dense(graph: Graph) -> None:
    one = graph.pick(graph.random.choice([2, 3]), FLOAT)
    if one is None:
        return
    size, width = graph.shapes[one][1][-1], graph.random.choice([1, 2, 5])
    if graph.random.random() < 0.5 and len(graph.shapes[one][1]) == 2:
        graph.add("Gemm", [one, graph.weights(size, width), graph.weights(width)])
    else:
        graph.add("MatMul", [one, graph.weights(size, width)])


def _image(graph: Graph) -> None:
    one = graph.pick(4, FLOAT)
    if one is None:
        return
    choose, channels = graph.random.choice, graph.shapes[one][1][1]
    kernel = [choose([1, 2, 3])] * 2
    more = {"pads": [choose([0, 1])] * 4, "strides": [choose([1, 2])] * 2}
    how = choose(["Conv", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization",
                  "Resize", "InstanceNormalization", "DepthToSpace", "Pad"])  # fmt: skip
    if how == "Conv":
        groups = choose([1, channels])
        width = groups * choose([1, 2])
        kernels = graph.weights(width, channels // groups, *kernel)
        graph.add(how, [one, kernels, graph.weights(width)], group=groups, **more)
    elif how == "ConvTranspose":
        graph.add(how, [one, graph.weights(channels, 2, *kernel)], **more)
    elif how in ("MaxPool", "AveragePool"):
        graph.add(how, [one], kernel_shape=kernel, ceil_mode=choose([0, 1]), **more)
    elif how == "BatchNormalization":
        graph.add(how, [one, *(graph.weights(channels) for _ in range(3)),
                        graph.constant(np.ones(channels, np.float32))])  # fmt: skip
    elif how == "InstanceNormalization":
        graph.add(how, [one, graph.weights(channels), graph.weights(channels)])
    elif how == "Resize":
        scales = graph.constant(np.array([1, 1, choose([0.5, 2]), 1.5], np.float32))
        graph.add(how, [one, "", scales], mode=choose(["nearest", "linear", "cubic"]))
    elif how == "DepthToSpace":
        graph.add(how, [one], blocksize=1)
    else:
        graph.add(how, [one, graph.constant(np.array([0, 0, 1, 1, 0, 0, 1, 0]))])


def _shape(graph: Graph) -> None:
    """Add an operator that moves, picks or repeats values."""
    one = graph.pick() or "x"
    shape, choose, constant = graph.shapes[one][1], graph.random.choice, graph.constant
    rank = len(shape)
    if not rank:
        return
    axis = graph.random.randrange(-rank, rank)
    along, keep = constant(np.array([axis])), choose([0, 1])
    bounds = [constant(np.array([n])) for n in (choose([0, 1, -1]), 2**31, axis, choose([1, -1]))]
    twice = constant(np.array([choose([1, 1, 2]) for _ in shape], np.int64))
    flat = constant(np.array(choose([[-1], [0, -1], [1, -1, 1]])))
    rows = constant(np.array(choose([[0], [0, 0], [-1]])))
    makers: list[Callable[[], bool]] = [
        lambda: graph.add("Transpose", [one], perm=graph.random.sample(range(rank), rank)),
        lambda: graph.add("Reshape", [one, flat]),
        lambda: graph.add("Unsqueeze", [one, along]),
        lambda: graph.add("Squeeze", [one]),
        lambda: graph.add("Concat", [one, one], axis=axis),
        lambda: graph.add("Split", [one], 2, axis=axis, num_outputs=2),
        lambda: graph.add("Slice", [one, *bounds]),
        lambda: graph.add("Gather", [one, rows], axis=axis),
        lambda: graph.add(choose(["Tile", "Expand"]), [one, twice]),
        lambda: graph.add(
            choose(["ReduceSum", "ReduceMean", "ReduceMax"]), [one, along], keepdims=keep
        ),
        lambda: graph.add("ArgMax", [one], axis=axis, keepdims=keep),
        lambda: graph.add("TopK", [one, constant(np.array([1]))], 2, axis=axis),
        lambda: graph.add("Cast", [one], to=choose(_DTYPES)),
        lambda: graph.add("ConstantOfShape", [constant(np.array(shape, np.int64))]),
        lambda: graph.add("ScatterND", [one, constant(np.array([[0]])), one]),
        lambda: _one_hot(graph),
        lambda: _where(graph, one),
    ]
    choose(makers)()


def _one_hot(graph: Graph) -> bool:
    """Add a product with one-hot rows, which the rewriter takes for rows of a table."""
    ids, values = graph.pick(None, INT64), graph.constant(np.array([0, 1], np.float32))
    if ids is None or not graph.add("OneHot", [ids, graph.constant(np.array([7])), values]):
        return False
    return graph.add("MatMul", [next(reversed(graph.shapes)), graph.weights(7, 3)])


def _where(graph: Graph, one: str) -> bool:
    zero = graph.constant(np.float32(0))
    made = graph.add("Greater", [one, zero])
    return made and graph.add("Where", [next(reversed(graph.shapes)), one, zero])


def _sequence(graph: Graph) -> None:
    one = graph.pick(3, FLOAT)
    if one is None:
        return
    size, hidden = graph.shapes[one][1][-1], 3
    kind, gates = graph.random.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    gated = gates * hidden
    inputs = [one, graph.weights(1, gated, size), graph.weights(1, gated, hidden)]
    graph.add(kind, inputs, hidden_size=hidden)


def _classic(graph: Graph) -> None:
    one = graph.pick(2, FLOAT)
    if one is None:
        return
    size = graph.shapes[one][1][1]
    how = graph.random.choice(["Scaler", "Normalizer", "LinearRegressor", "TreeEnsembleRegressor"])
    more: dict[str, Any] = {
        "Scaler": {"offset": [0.5], "scale": [2.0]},
        "Normalizer": {"norm": "L2"},
        "LinearRegressor": {"coefficients": [1.0] * size, "intercepts": [0.5]},
        "TreeEnsembleRegressor": {
            "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
            "nodes_values": [0.5, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
            "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "n_targets": 1,
            "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
            "target_weights": [1.0, 2.0],
        },
    }[how]  # fmt: skip
    graph.add(how, [one], domain=_ML, **more)


def _taken_apart(graph: Graph) -> None:
    """Add what the passes of the rewriter look for: activations that exporters took apart."""
    one = graph.pick(None, FLOAT) or "x"
    number = [graph.constant(np.float32(n)) for n in (3.0, 0.0, 6.0, 1.0)]
    steps = graph.random.choice(
        [
            [("Add", 0), ("Clip", None), ("Div", 2), ("Mul", "x")],
            [("Mul", 2), ("Erf", None), ("Add", 3), ("Mul", "x")],
            [("Sigmoid", None), ("Mul", "x"), ("Add", "x")],
        ]
    )
    last = one
    for kind, other in steps:
        inputs = [last]
        if kind == "Clip":
            inputs += [number[1], number[2]]
        elif other == "x":
            inputs.append(one)
        elif isinstance(other, int):
            inputs.append(number[other])
        if not graph.add(kind, inputs):
            return
        last = next(reversed(graph.shapes))


_TEMPLATES: list[Callable[[Graph], None]] = [
    _unary, _binary, _dense, _dense, _image, _image, _image, _shape, _shape, _sequence, _classic,
    _taken_apart,
]  # fmt: skip


def _another_attribute(made: onnx.ModelProto, generator: random.Random) -> None:
    there = [each for node in made.graph.node for each in node.attribute]
    attribute = generator.choice(there)
    kind = attribute.type
    if kind == onnx.AttributeProto.INT:
        attribute.i = generator.choice([attribute.i + 1, attribute.i - 1, -attribute.i, *_WHOLE])
    elif kind == onnx.AttributeProto.FLOAT:
        attribute.f = generator.choice(_FLOATS)
    elif kind == onnx.AttributeProto.STRING:
        attribute.s = generator.choice(_WORDS)
    elif kind == onnx.AttributeProto.INTS:
        at = generator.randrange(len(attribute.ints))
        attribute.ints[at] = generator.choice([attribute.ints[at] + 1, *_WHOLE])
        if generator.random() < 0.2:
            attribute.ints.append(1)
    elif kind == onnx.AttributeProto.FLOATS:
        attribute.floats[generator.randrange(len(attribute.floats))] = generator.choice(_FLOATS)


def _without_attribute(made: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice([node for node in made.graph.node if node.attribute])
    del node.attribute[generator.randrange(len(node.attribute))]


def _another_size(made: onnx.ModelProto, generator: random.Random) -> None:
    tensor = generator.choice(made.graph.initializer)
    array = numpy_helper.to_array(tensor)
    sizes = list(array.shape) or [1]
    at = generator.randrange(len(sizes))
    sizes[at] = generator.choice([0, 1, sizes[at] + 1, max(sizes[at] - 1, 0), sizes[at] * 2])
    if generator.random() < 0.2:
        sizes.insert(at, 1)
    tensor.CopyFrom(numpy_helper.from_array(np.resize(array, sizes), tensor.name))


def _another_type(made: onnx.ModelProto, generator: random.Random) -> None:
    tensor = generator.choice(made.graph.initializer)
    kind = helper.tensor_dtype_to_np_dtype(generator.choice(_DTYPES))
    array = numpy_helper.to_array(tensor).astype(kind)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _other_values(made: onnx.ModelProto, generator: random.Random) -> None:
    tensor = generator.choice(made.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    values: tuple[float, ...] = _FLOATS if array.dtype.kind == "f" else _WHOLE
    array.reshape(-1)[generator.randrange(array.size)] = generator.choice(values)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _another_wire(made: onnx.ModelProto, generator: random.Random) -> None:
    """Have a node take what another one takes or makes before it."""
    at = generator.randrange(len(made.graph.node))
    node = made.graph.node[at]
    before = [name for each in made.graph.node[:at] for name in (*each.input, *each.output)]
    place = generator.randrange(len(node.input))
    node.input[place] = generator.choice(["x", *before, ""])


def _swapped_inputs(made: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice([node for node in made.graph.node if len(node.input) > 1])
    names = list(node.input)
    generator.shuffle(names)
    node.input[:] = names


def _another_operator(made: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice(made.graph.node)
    node.op_type = generator.choice(_UNARY if len(node.input) == 1 else _BINARY)
    node.domain = ""
    if generator.random() < 0.5:
        del node.attribute[:]


def _without_node(made: onnx.ModelProto, generator: random.Random) -> None:
    node = made.graph.node[generator.randrange(len(made.graph.node))]
    made.graph.node.remove(node)
    for other in made.graph.node:
        other.input[:] = [node.input[0] if n in node.output else n for n in other.input]


def _cast_before(made: onnx.ModelProto, generator: random.Random) -> None:
    at = generator.randrange(len(made.graph.node))
    node, name = made.graph.node[at], f"cast{generator.randrange(2**32)}"
    place = generator.randrange(len(node.input))
    kind = generator.choice(_DTYPES)
    made.graph.node.insert(at, helper.make_node("Cast", [node.input[place]], [name], to=kind))
    made.graph.node[at + 1].input[place] = name


def _another_input(made: onnx.ModelProto, generator: random.Random) -> None:
    tensor = made.graph.input[0].type.tensor_type
    if generator.random() < 0.4:
        tensor.elem_type = generator.choice(_DTYPES)
        return
    dimension = generator.choice(tensor.shape.dim)
    size = generator.choice([0, 1, 3, 5, dimension.dim_value + 1, "m"])
    dimension.Clear()
    if isinstance(size, str):
        dimension.dim_param = size
    else:
        dimension.dim_value = size


def _further_output(made: onnx.ModelProto, generator: random.Random) -> None:
    """Have a node take nothing any more that another one made, which is an output then."""
    node = generator.choice(made.graph.node)
    node.input[generator.randrange(len(node.input))] = "x"


def _branch(made: onnx.ModelProto, generator: random.Random) -> None:
    """Put a node into both branches of an If, which the input decides, or a constant."""
    at = generator.randrange(len(made.graph.node))
    node = made.graph.node[at]
    bodies = []
    for label in ("then", "else"):
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.output[:] = [f"{name}_{label}" for name in node.output]
        ends = [helper.make_tensor_value_info(n, FLOAT, None) for n in inner.output]
        bodies.append(helper.make_graph([inner], label, [], ends))
    condition = f"is{generator.randrange(2**32)}"
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), condition))
    chosen = helper.make_node(
        "If", [condition], list(node.output), then_branch=bodies[0], else_branch=bodies[1]
    )
    made.graph.node.remove(node)
    made.graph.node.insert(at, chosen)


def _repeated(made: onnx.ModelProto, generator: random.Random) -> None:
    """Put a node into a loop, of few runs or of many."""
    at = generator.randrange(len(made.graph.node))
    node = made.graph.node[at]
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    inner.input[0], inner.output[:] = "v", ["v_out", *node.output[1:]]
    go = helper.make_node("Identity", ["go"], ["again"])
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [inner, go], "body",
        [value("i", INT64, []), value("go", TensorProto.BOOL, []), value("v", FLOAT, None)],
        [value("again", TensorProto.BOOL, []), value("v_out", FLOAT, None)],
    )  # fmt: skip
    runs, yes = (f"{word}{generator.randrange(2**32)}" for word in ("runs", "yes"))
    many = np.array(generator.choice([0, 1, 3, 100, 2**40]))
    made.graph.initializer.append(numpy_helper.from_array(many, runs))
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), yes))
    loop = helper.make_node("Loop", [runs, yes, node.input[0]], [node.output[0]], body=body)
    made.graph.node.remove(node)
    made.graph.node.insert(at, loop)


_CHANGES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    _another_attribute, _another_attribute, _without_attribute, _another_size, _another_type,
    _other_values, _other_values, _another_wire, _swapped_inputs, _another_operator, _without_node,
    _cast_before, _another_input, _further_output, _branch, _repeated,
]  # fmt: skip
