"""ONNX's own shape inference, kept from what brings it down."""

from collections.abc import Iterator
from typing import Any

import onnx

from model_delivery_engine.nodes import all_nodes

_ENCODER = "LabelEncoder"
# By the attribute that holds its values; a tensor says its type itself.
_VALUES = {
    "values_floats": onnx.TensorProto.FLOAT,
    "values_int64s": onnx.TensorProto.INT64,
    "values_strings": onnx.TensorProto.STRING,
}


def infer_shapes(model: Any) -> Any:
    """Return an ``onnx.ModelProto`` with the shapes that ONNX infers.

    :raises onnx.shape_inference.InferenceError: shapes that contradict one another
    """
    return onnx.shape_inference.infer_shapes(inferable(model))


def inferable(model: Any) -> Any:
    """Return an ``onnx.ModelProto`` of the same shapes that ONNX can infer them of.

    Where nothing is known of a LabelEncoder's input, as behind an Imputer, onnx 1.23 ends the whole
    process with a segmentation fault. In a copy a Cast stands in, which keeps the shape too; a
    model without one is itself returned.
    """
    if not any(_encoders(model)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in _encoders(copy):
        _stand_in(node)
    return copy


def _encoders(model: Any) -> Iterator[Any]:
    for body in (model.graph, *model.functions):
        yield from (node for node in all_nodes(body.node) if node.op_type == _ENCODER)


def _stand_in(node: Any) -> None:
    kind = next((_kind(each) for each in node.attribute if each.name.startswith("values_")), None)
    # Before its second version it turned texts into numbers, or back: its input decides.
    cast = onnx.helper.make_node("Cast", node.input, node.output, to=kind or onnx.TensorProto.INT64)
    node.CopyFrom(cast)


def _kind(attribute: Any) -> int:
    return int(attribute.t.data_type) if attribute.HasField("t") else _VALUES[attribute.name]
