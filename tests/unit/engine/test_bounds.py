"""A small model that asks for everything: refused within bounds, whoever calls the engine."""

import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.compile import CompilationRequest, compile_model, wrap_artifact
from model_delivery_engine.errors import EngineError, MemoryShortError, Reason
from model_delivery_engine.memory import memory_bounded
from model_delivery_engine.settings import CompilerSettings, Limits
from model_delivery_engine.targets import Target
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph, save_linear

MIB = 2**20
MEMORY = 512 * MIB
SECONDS = 3.0
ROWS = {"x": (TensorProto.FLOAT, ["n", 2])}
ROWS_OUT = {"y": (TensorProto.FLOAT, ["n", 2])}
CONFIG = '{"x": [-1, 2]}'


def constant(path: Path) -> Path:
    """Write a model of a few bytes with a constant of 1 GiB."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["wide"], name="wide"),
        helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    return save_graph(path, nodes, ROWS, ROWS_OUT, {"shape": np.array([2**28])})


def untaken(path: Path) -> Path:
    """Write one with 4 GiB in a branch that no input takes: only folding computes them."""
    value = helper.make_tensor_value_info
    shape = onnx.numpy_helper.from_array(np.array([2**30]))
    huge = [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("ConstantOfShape", ["shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["a"]),
    ]
    branches = {
        "then_branch": helper.make_graph(huge, "t", [], [value("a", TensorProto.FLOAT, None)]),
        "else_branch": helper.make_graph(
            [helper.make_node("Identity", ["x"], ["b"])], "e", [],
            [value("b", TensorProto.FLOAT, None)],
        ),
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "never"], ["is"]),
        helper.make_node("If", ["is"], ["y"], **branches),
    ]
    return save_graph(path, nodes, ROWS, ROWS_OUT, {"never": np.array(1e38, np.float32)})


def loop(path: Path, nodes: list[Any], out: tuple[Any, Any]) -> Path:
    """Write one that repeats some nodes for ever, from `v` to `v_out`."""
    value = helper.make_tensor_value_info
    go = helper.make_node("Identity", ["go"], ["again"])
    body = helper.make_graph(
        [*nodes, go],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("v", TensorProto.FLOAT, None)],
        [value("again", TensorProto.BOOL, []), value("v_out", TensorProto.FLOAT, None)],
    )  # fmt: skip
    loops = [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)]
    return save_graph(path, loops, ROWS, {"y": out}, {"true": np.array(True)})


def growing(path: Path) -> Path:
    """Write one that doubles its rows for ever, which no shape tells."""
    nodes = [helper.make_node("Concat", ["v", "v"], ["v_out"], axis=0)]
    return loop(path, nodes, (TensorProto.FLOAT, [None, None]))


def endless(path: Path) -> Path:
    nodes = [helper.make_node("Add", ["v", "v"], ["v_out"])]
    return loop(path, nodes, (TensorProto.FLOAT, ["n", 2]))


def doubling(path: Path, depth: int = 28) -> Path:
    """Write one whose functions call the next one twice, each."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(depth):
        inner, domain = (f"f{level + 1}", "own") if level + 1 < depth else ("Neg", "")
        nodes = [
            helper.make_node(inner, ["a"], ["b"], domain=domain),
            helper.make_node(inner, ["b"], ["c"], domain=domain),
        ]
        made = helper.make_function("own", f"f{level}", ["a"], ["c"], nodes, imports)
        functions.append(made)
    save_graph(path, [helper.make_node("f0", ["x"], ["y"], domain="own")], ROWS, ROWS_OUT)
    model = onnx.load(path)
    del model.opset_import[:]
    model.opset_import.extend(imports)
    model.functions.extend(functions)
    onnx.save(model, path)
    return path


@pytest.fixture(params=["compile", "wrap"])
def deliver(
    request: pytest.FixtureRequest, tmp_path: Path, pack: Callable[[Path], Path], target: Target
) -> Callable[[Path, str], None]:
    """Compile a model, or wrap an artifact that is said to be made of it, in this process."""

    def _deliver(model: Path, config: str) -> None:
        limits = Limits(seconds=SECONDS, memory_bytes=MEMORY)
        settings = CompilerSettings(tmp_path / "environments", limits=limits)
        asked = CompilationRequest("ONNX", config, target, "greedy", "s3://b/m.tar.gz")
        archive, bundle = pack(model), tmp_path / "b.tar.gz"
        if request.param == "compile":
            compile_model(archive, bundle, asked, settings=settings)
            return
        (tmp_path / "artifact").mkdir()
        (tmp_path / "artifact" / "library.so").write_bytes(b"code")
        pack_archive(tmp_path / "artifact", tmp_path / "artifact.tar.gz")
        wrap_artifact(archive, tmp_path / "artifact.tar.gz", bundle, asked, settings=settings)

    return _deliver


@pytest.mark.parametrize("make", [constant, growing])
def test_memory_has_a_bound(
    tmp_path: Path, deliver: Callable[[Path, str], None], make: Callable[[Path], Path]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryShortError, match="more memory than") as refused:
        deliver(make(tmp_path / "model" / "model.onnx"), CONFIG)
    assert refused.value.reason is Reason.CONVERSION_MEMORY
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_is_folded_ahead_of_time_has_it_too(
    tmp_path: Path, pack: Callable[[Path], Path], target: Target
) -> None:
    """ONNX Runtime folds nothing that it has no memory for; the model takes the other branch."""
    settings = CompilerSettings(tmp_path / "none", limits=Limits(memory_bytes=MEMORY))
    asked = CompilationRequest("ONNX", CONFIG, target, "greedy", "s3://b/m.tar.gz")
    model = untaken(tmp_path / "model" / "model.onnx")
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compile_model(pack(model), tmp_path / "b.tar.gz", asked, settings=settings)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest
    assert more * 1024 < 2 * MEMORY


def test_inputs_that_are_drawn_have_it_too(
    tmp_path: Path, deliver: Callable[[Path, str], None]
) -> None:
    model = save_linear(tmp_path / "model" / "model.onnx")
    with pytest.raises(MemoryShortError, match=r"than the 512 MiB of MODEL_DELIVERY_CONVERSION_M"):
        deliver(model, f'{{"features": [{2**26}, 4]}}')


def test_a_run_has_a_time(tmp_path: Path, deliver: Callable[[Path, str], None]) -> None:
    started = time.monotonic()
    with pytest.raises(EngineError, match="did not answer within 3 s; it may loop") as refused:
        deliver(endless(tmp_path / "model" / "model.onnx"), CONFIG)
    assert refused.value.reason is Reason.CONVERSION_TIMEOUT
    assert time.monotonic() - started < SECONDS + 20


@pytest.mark.parametrize(
    ("depth", "says"), [(28, "into more than 1,000,000 operators"), (40, "32 functions deep")]
)
def test_functions_that_write_out_without_end(
    tmp_path: Path, deliver: Callable[[Path, str], None], depth: int, says: str
) -> None:
    with pytest.raises(EngineError, match=says) as refused:
        deliver(doubling(tmp_path / "model" / "model.onnx", depth), CONFIG)
    assert refused.value.reason is Reason.MODEL_TOO_LARGE


def test_few_functions_are_none_of_them(
    tmp_path: Path, deliver: Callable[[Path, str], None]
) -> None:
    deliver(doubling(tmp_path / "model" / "model.onnx", 4), CONFIG)
    assert (tmp_path / "b.tar.gz").is_file()


def test_threads_share_the_bound_and_the_last_takes_it_off() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with memory_bounded(MEMORY):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    bound = resource.getrlimit(resource.RLIMIT_DATA)[0]
    with memory_bounded(2 * MEMORY):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == bound
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == bound
    leave.set()
    thread.join()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
