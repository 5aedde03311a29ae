"""Archives that nobody should compile: FAILED with a reason to act on, and the server stays up."""

import io
import re
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def archive_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            member.linkname = "/etc/passwd"
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def model(nodes: list[Any], opsets: dict[str, int] | None = None, weights: Any = None) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("pixels", FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 8])],
        [] if weights is None else [numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid(name, number) for name, number in (opsets or {"": 18}).items()]
    made = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return bytes(made.SerializeToString())


def endless() -> bytes:
    """Return a model that adds one for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["held", "held"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", FLOAT, None),
        ],
    )
    true = numpy_helper.from_array(np.array(True))
    return model(
        [
            helper.make_node("Constant", [], ["true"], value=true),
            helper.make_node("Loop", ["", "true", "pixels"], ["y"], body=body),
        ]
    )


def bomb() -> bytes:
    """Return an archive that claims, and has, more than the 4 GiB that an archive may expand to."""
    member = tarfile.TarInfo("zeros")
    member.size = 2**32
    block = bytes(2**20)
    compressor = zlib.compressobj(1, wbits=31)
    parts = [compressor.compress(member.tobuf())]
    parts += [compressor.compress(block) for _ in range(2**12)]
    return b"".join([*parts, compressor.compress(bytes(1024)), compressor.flush()])


def hog(operator: str) -> bytes:
    """Return a model that needs 64 GiB for one tensor."""
    shape = numpy_helper.from_array(np.array([2**31, 8], np.int64))
    nodes = [helper.make_node("Constant", [], ["shape"], value=shape)]
    if operator == "Expand":
        # The sum of a row keeps what is expanded from being folded into a constant.
        nodes += [
            helper.make_node("ReduceMax", ["pixels"], ["most"], keepdims=1),
            helper.make_node("Expand", ["most", "shape"], ["large"]),
        ]
    else:
        nodes += [helper.make_node("ConstantOfShape", ["shape"], ["large"])]
    nodes += [
        helper.make_node("ReduceMax", ["large"], ["top"], keepdims=1),
        helper.make_node("Add", ["pixels", "top"], ["y"]),
    ]
    return model(nodes)


RELU = model([helper.make_node("Relu", ["pixels"], ["y"])])
NAN = np.full((8, 8), np.nan, np.float32)
MULTIPLY = helper.make_node("MatMul", ["pixels", "w"], ["y"])
CUSTOM = helper.make_node("Magic", ["pixels"], ["y"], "spell", domain="my.ops")
UNKNOWN = helper.make_node("Magic", ["pixels"], ["y"], "spell", domain="com.microsoft")
CASES: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "truncated": (archive_of(("model.onnx", RELU))[:-40], {}, "ARCHIVE_INVALID"),
    "link": (archive_of(("model.onnx", b""), kind=tarfile.SYMTYPE), {}, "is a link to"),
    "bomb": (bomb(), {}, "expands past the limit"),
    "dot-dot": (archive_of(("../model.onnx", RELU)), {}, "'..' in its path"),
    "deep": (
        archive_of(("a/" * 600 + "x", b"x"), ("a/" * 1200 + "model.onnx", RELU)), {},
        "ARCHIVE_INVALID: .*more than 32 folders deep",
    ),
    "two models": (
        archive_of(("a.onnx", RELU), ("b.onnx", RELU)), {}, "MODEL_AMBIGUOUS: .*a.onnx, b.onnx",
    ),
    "wrong framework": (
        archive_of(("model.onnx", RELU)), {"Framework": "TFLITE"}, "MODEL_MISSING: .*tflite",
    ),
    "no framework of ours": (
        archive_of(("model.params", b"x")), {"Framework": "MXNET"}, "FRAMEWORK_UNSUPPORTED: .*ONNX",
    ),
    "a pickle": (
        archive_of(("model.pkl", b"\x80\x04.")), {"Framework": "SKLEARN"},
        "UNTRUSTED_CODE: .*skops",
    ),
    "operator set too new": (
        archive_of(("model.onnx", model([helper.make_node("Relu", ["pixels"], ["y"])], {"": 99}))),
        {},
        "OPSET_TOO_NEW: .*operator set 99",
    ),
    "shapes": (
        archive_of(("model.onnx", RELU)), {"DataInputConfig": '{"pixels": [4, 9]}'},
        "SHAPE_MISMATCH: .*pixels",
    ),
    "NaN weights": (
        archive_of(("model.onnx", model([MULTIPLY], weights=NAN))), {},
        "WEIGHTS_NOT_FINITE: .*has NaN values",
    ),
    "custom operator": (
        archive_of(("model.onnx", model([CUSTOM], {"": 18, "my.ops": 1}))), {},
        "OPERATOR_CUSTOM: .*my.ops.Magic",
    ),
    "an unknown operator of ONNX Runtime's": (
        archive_of(("model.onnx", model([UNKNOWN], {"": 18, "com.microsoft": 1}))), {},
        "OPERATOR_UNSUPPORTED: .*Magic.*export the model with standard operators",
    ),
    "memory: Expand": (archive_of(("model.onnx", hog("Expand"))), {}, "CONVERSION_MEMORY: "),
    "memory: ConstantOfShape": (
        archive_of(("model.onnx", hog("ConstantOfShape"))), {}, "CONVERSION_MEMORY: ",
    ),
    "loops for ever": (archive_of(("model.onnx", endless())), {}, "MaxRuntimeInSeconds"),
}  # fmt: skip
# One process of the child's start and its imports included.
ENDLESS_SECONDS = 12


def test_every_bad_archive_fails_with_its_reason_and_the_server_stays(
    cloud: Any, put: Callable[[bytes], str], job_request: Any, wait: Any
) -> None:
    client = cloud.client("sagemaker", region_name="ca-central-1")
    names = {}
    for case, (data, changes, _reason) in CASES.items():
        request = job_request(put(data))
        request["InputConfig"].update(changes)
        if case == "loops for ever":
            request["StoppingCondition"] = {"MaxRuntimeInSeconds": ENDLESS_SECONDS}
        names[case] = request["CompilationJobName"]
        client.create_compilation_job(**request)
    with cloud.worker():
        ended = {case: wait(client, name) for case, name in names.items()}
    for case, (_data, _changes, reason) in CASES.items():
        found = ended[case]
        assert found["CompilationJobStatus"] == "FAILED", case
        assert found["FailureReason"].startswith("ClientError: "), found["FailureReason"]
        assert re.search(reason, found["FailureReason"]), found["FailureReason"]
    loop = ended["loops for ever"]
    ran = loop["CompilationEndTime"] - loop["CompilationStartTime"]
    assert ran.total_seconds() < ENDLESS_SECONDS + 5
    assert httpx.get(f"{cloud.url}/healthz").json() == {"status": "ok"}
