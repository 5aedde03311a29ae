"""Inputs made wrong in the ways that storage, people and attackers do it, each from its seed."""

import gzip
import io
import random
import tarfile
import zlib
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz import graphs

Make = Callable[[random.Random], bytes]


def model(generator: random.Random) -> onnx.ModelProto:
    """Return a small valid model: dense layers, a convolution, or shape arithmetic."""
    rng = np.random.default_rng(generator.randrange(2**32))
    weights = {
        "w": rng.normal(size=(4, 3)).astype(np.float32),
        "k": rng.normal(size=(2, 1, 3, 3)).astype(np.float32),
        "s": np.array([-1, 12], np.int64),
    }
    graphs = [
        (["w"], [1, 4], [1, 3], [
            helper.make_node("MatMul", ["x", "w"], ["h"], "m"),
            helper.make_node("Softmax", ["h"], ["y"], "s", axis=-1),
        ]),
        (["k"], [1, 1, 6, 6], [1, 2, 6, 6], [
            helper.make_node("Conv", ["x", "k"], ["h"], "c", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["h"], ["y"], "r"),
        ]),
        (["s"], [2, 3, 4], [], [
            helper.make_node("Transpose", ["x"], ["t"], "t", perm=[0, 2, 1]),
            helper.make_node("Reshape", ["t", "s"], ["h"], "e"),
            helper.make_node("ReduceMean", ["h"], ["y"], "q", keepdims=0),
        ]),
    ]  # fmt: skip
    names, shape, answer, nodes = generator.choice(graphs)
    graph = helper.make_graph(
        nodes,
        "fuzz",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, answer)],
        [numpy_helper.from_array(weights[name], name) for name in names],
    )
    opset = helper.make_opsetid("", generator.choice([13, 17, 18, 21]))
    return helper.make_model(graph, opset_imports=[opset], ir_version=generator.choice([8, 10]))


def packed(data: bytes, name: str = "model.onnx") -> bytes:
    """Return a valid archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def torn(data: bytes, generator: random.Random) -> bytes:
    """Return bytes with flips, cuts, repeats, splices or noise."""
    text = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 4, 16])):
        at = generator.randrange(len(text) or 1)
        length = min(generator.choice([1, 2, 4, 8, 64, 512]), len(text) - at)
        how = generator.randrange(6)
        if how == 0 and text:
            text[at] ^= 1 << generator.randrange(8)
        elif how == 1:
            del text[at : at + length]
        elif how == 2:
            text[at:at] = text[at : at + length]
        elif how == 3:
            text[at : at + length] = generator.randbytes(length)
        elif how == 4:
            text[at : at + length] = b"\xff" * length
        else:
            del text[at:]
    return bytes(text)


def torn_archive(generator: random.Random) -> bytes:
    """Damage the gzip stream of an archive."""
    return torn(packed(generator.randbytes(generator.randrange(3000))), generator)


def torn_tar(generator: random.Random) -> bytes:
    """Damage the tar inside sound gzip, half of the time with its header's sum made right."""
    tar = bytearray(torn(gzip.decompress(packed(generator.randbytes(700))), generator))
    if len(tar) >= 512 and generator.random() < 0.5:
        tar[148:156] = b" " * 8
        tar[148:156] = b"%06o\0 " % (sum(tar[:512]) & 0o777777)
    return gzip.compress(bytes(tar), 1, mtime=0)


EXTENDED = [
    *(f"GNU.sparse.{name}" for name in ("map", "size", "realsize", "name", "major", "minor")),
    "size", "path", "hdrcharset",
]  # fmt: skip
CLAIMS = ["1", "0", "-5", "512,512", "67108864", "9" * 30, "many", "../up", "BINARY", "1,2,3"]


def odd_archive(generator: random.Random) -> bytes:
    """Make a well-formed archive with members that must not be extracted, or too many of them."""
    buffer = io.BytesIO()
    names = ["model.onnx", "../up", "/etc/passwd", "a/../../b", "a\\b", "", ".", "x" * 300, "model"]
    kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
             tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE]  # fmt: skip
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for _ in range(generator.randrange(1, 6)):
            member = tarfile.TarInfo(generator.choice(names))
            member.type = generator.choice(kinds)
            member.linkname = generator.choice(names)
            member.mode = generator.randrange(0o10000)
            data = generator.randbytes(generator.randrange(50))
            member.size = len(data) if member.type == tarfile.REGTYPE else 0
            if generator.random() < 0.4:  # what an extended header claims, sparse files among it
                for name in generator.sample(EXTENDED, generator.randrange(1, 4)):
                    member.pax_headers[name] = generator.choice(CLAIMS)
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def bomb(generator: random.Random) -> bytes:
    """Make a member that expands a thousandfold, or claims a size that it has not."""
    size = generator.randrange(2**20, 2**23)
    compressor = zlib.compressobj(9, wbits=31)
    member = tarfile.TarInfo("model.onnx")
    member.size = generator.choice([size, size * 1000, 2**40])
    return compressor.compress(member.tobuf() + bytes(size)) + compressor.flush()


def torn_model(generator: random.Random) -> bytes:
    """Damage the bytes of a model."""
    return packed(torn(model(generator).SerializeToString(), generator))


def odd_model(generator: random.Random) -> bytes:
    """Make a well-formed model that says something absurd."""
    made = model(generator)
    for _ in range(generator.choice([1, 1, 2, 3])):
        _ODDITIES[generator.randrange(len(_ODDITIES))](made, generator)
    return packed(made.SerializeToString())


def grown_model(generator: random.Random) -> bytes:
    """Make a valid model of many operators."""
    return packed(graphs.grown(generator).SerializeToString())


def changed_model(generator: random.Random) -> bytes:
    """Make such a model and change an attribute, a size, a type or a wire."""
    return packed(graphs.changed(generator).SerializeToString())


def _type(made: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice(made.graph.node)
    kinds = ["Add", "Gemm", "Loop", "If", "Nobody", "Gather", "Conv", "Cast", "Resize", "Einsum"]
    node.op_type = generator.choice([*kinds, "\u0000"])


def _wiring(made: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice(made.graph.node)
    names = ["x", "y", "h", "", "nowhere", node.output[0]]
    node.input[generator.randrange(len(node.input))] = generator.choice(names)


def _dimension(made: onnx.ModelProto, generator: random.Random) -> None:
    tensor = made.graph.initializer[0]
    sizes = [-1, 0, 1, 7, 2**31, 2**62]
    tensor.dims[generator.randrange(len(tensor.dims))] = generator.choice(sizes)


def _data(made: onnx.ModelProto, generator: random.Random) -> None:
    tensor = made.graph.initializer[0]
    tensor.raw_data = torn(tensor.raw_data or b"\0", generator)


def _element(made: onnx.ModelProto, generator: random.Random) -> None:
    made.graph.initializer[0].data_type = generator.choice([0, 2, 6, 8, 9, 10, 16, 99])


def _attribute(made: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice(made.graph.node)
    name = generator.choice(["axis", "pads", "perm", "strides", "group", "keepdims"])
    value = generator.choice([-(2**40), -1, 0, 99, 2**40, [-5, 3], [2**33] * 4, "text", 0.5])
    del node.attribute[:]
    node.attribute.append(helper.make_attribute(name, value))


def _external(made: onnx.ModelProto, generator: random.Random) -> None:
    tensor = made.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    path = generator.choice(["../../etc/passwd", "/etc/passwd", "model.onnx", "weights.bin"])
    for key, value in (("location", path), ("offset", "-1"), ("length", str(2**40))):
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))


def _opset(made: onnx.ModelProto, generator: random.Random) -> None:
    made.opset_import[0].version = generator.choice([-1, 0, 1, 6, 99, 2**40])
    made.ir_version = generator.choice([0, 3, 10, 99])


def _signature(made: onnx.ModelProto, generator: random.Random) -> None:
    value = generator.choice([*made.graph.input, *made.graph.output])
    value.name = generator.choice(["x", "", "other"])
    value.type.tensor_type.elem_type = generator.choice([0, 1, 7, 8, 99])


_ODDITIES = [_type, _wiring, _dimension, _data, _element, _attribute, _external, _opset, _signature]
MAKERS: list[Make] = [
    torn_archive, torn_tar, odd_archive, bomb, torn_model, odd_model, grown_model, changed_model,
    changed_model, changed_model, changed_model, changed_model,
]  # fmt: skip
