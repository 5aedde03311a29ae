"""The operators of a batch over files, a real S3 and a real Azure Blob, also killed and retried."""

import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
import pytest
from model_delivery.exceptions import DeliveryRefusedError, InvalidRequestError
from model_delivery.hooks.storage import StorageHook
from model_delivery.operators.inference import (
    BatchInferenceOperator,
    MergeResultsOperator,
    PlanShardsOperator,
    RetryFailedRecordsOperator,
)
from model_delivery_engine.bundle import Golden, Manifest, Source, write_bundle
from model_delivery_engine.digest import digest_file
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.targets import resolve_target

PROJECT = Path(__file__).resolve().parents[2]
WEIGHTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
STORES = ["file", "s3", "azure", "abfss"]


def bundle_of(
    folder: Path, nodes: list[Any], source: Any, shape: list[Any], given: Any, constants: Any
) -> Path:
    graph = onnx.helper.make_graph(
        nodes, "model", [source],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 18)]
    path = folder / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    model = Model(open_session(path, session_options(1)), "model")
    manifest = Manifest(
        "model", "", Source("file:///none", digest_file(path), "ONNX"),
        resolve_target("ml_c5", None), {}, model.inputs, model.outputs, Golden("", 0, 1e-5, 1e-4),
    )  # fmt: skip
    archive = folder / "bundle.tar.gz"
    write_bundle(archive, model=path, manifest=manifest, golden_inputs=given,
                 golden_outputs=model.run(given))  # fmt: skip
    return archive


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    features = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["n", 4])
    nodes = [onnx.helper.make_node("MatMul", ["features", "weights"], ["scores"])]
    given = {"features": np.zeros((2, 4), np.float32)}
    folder = tmp_path_factory.mktemp("linear")
    return bundle_of(folder, nodes, features, ["n", 3], given, {"weights": WEIGHTS})


def lines(count: int, bad_every: int = 97) -> bytes:
    rows = np.random.default_rng(1).normal(size=(count, 4)).round(3)
    texts = [json.dumps({"id": f"å{n}", "features": row.tolist()}) for n, row in enumerate(rows)]
    for n in range(7, count, bad_every) if bad_every else []:
        texts[n] = json.dumps({"id": f"å{n}", "features": "none"})
    return "\n".join(texts).encode()


@pytest.fixture(params=STORES)
def prefix(request: pytest.FixtureRequest, prefixes: dict[str, str]) -> str:
    if request.param == "abfss":
        return prefixes["azure"].replace("wasbs://", "abfss://")
    return prefixes[request.param]


def put(prefix: str, bundle: Path, data: bytes, name: str = "in/input.jsonl") -> str:
    hook = StorageHook()
    hook.upload(bundle, f"{prefix}/bundle.tar.gz")
    hook.write_bytes(f"{prefix}/{name}", data)
    return f"{prefix}/{name}"


def plan(uri: str, shards: int, **more: Any) -> list[Any]:
    return list(
        PlanShardsOperator(task_id="plan", input_uri=uri, shards=shards, **more).execute({})
    )


def infer(prefix: str, shard: Any, **more: Any) -> Any:
    given = {"bundle_uri": f"{prefix}/bundle.tar.gz", "output_uri": f"{prefix}/out",
             "batch_size": 64, "processes": 1}  # fmt: skip
    operator = BatchInferenceOperator(task_id="infer", shard=shard, **{**given, **more})
    return operator.execute({})


def merge(prefix: str, parts: Any, **more: Any) -> Any:
    operator = MergeResultsOperator(
        task_id="merge", parts=parts, output_uri=f"{prefix}/out", **more
    )
    return operator.execute({})


def digests(prefix: str) -> dict[str, str]:
    hook = StorageHook()
    names = [each.uri for each in hook.list(f"{prefix}/out/")]
    return {
        uri.rpartition("/")[2]: hashlib.sha256(hook.read_bytes(uri)).hexdigest() for uri in names
    }


def test_shards_on_every_store_give_the_same_results(
    prefix: str, prefixes: dict[str, str], bundle: Path, connections: None
) -> None:
    data = lines(3000)
    uri = put(prefix, bundle, data)
    shards = plan(uri, 5)
    assert len(shards) == 5
    merged = merge(prefix, [infer(prefix, shard) for shard in reversed(shards)])
    assert (merged["records"], merged["errors"], merged["skipped"]) == (3000, 31, 0)
    hook = StorageHook()
    results = [json.loads(line) for line in hook.read_bytes(merged["output_uri"]).splitlines()]
    assert [line["input"]["id"] for line in results] == [f"å{n}" for n in range(3000)]
    rows = np.array([r["features"] if isinstance(r["features"], list) else [0] * 4
                     for r in map(json.loads, data.splitlines())], np.float32)  # fmt: skip
    for n, line in enumerate(results):
        if line["error"] is None:
            np.testing.assert_allclose(line["output"]["scores"], rows[n] @ WEIGHTS, rtol=1e-5,
                                       atol=1e-6)  # fmt: skip
        else:
            assert data[line["error"]["offset"] :].startswith(f'{{"id": "\\u00e5{n}"'.encode())
    manifest = json.loads(hook.read_bytes(merged["manifest_uri"]))
    assert manifest["records"] == manifest["ok"] + manifest["errors"] == 3000
    assert [each["index"] for each in manifest["shards"]] == [0, 1, 2, 3, 4]
    # What is left: results, errors, manifest. As one shard the bytes are the same.
    assert set(digests(prefix)) == {"results.jsonl", "errors.jsonl", "manifest.json"}
    many = digests(prefix)
    merge(prefix, [infer(prefix, shard) for shard in plan(uri, 1)])
    assert digests(prefix)["results.jsonl"] == many["results.jsonl"]


def test_merging_again_finds_what_was_published(
    prefix: str, bundle: Path, connections: None
) -> None:
    uri = put(prefix, bundle, lines(500))
    parts = [infer(prefix, shard) for shard in plan(uri, 2)]
    assert merge(prefix, parts) == merge(prefix, parts)


def test_a_merge_asks_the_shards_what_they_wrote(
    prefixes: dict[str, str], bundle: Path, connections: None
) -> None:
    prefix = prefixes["file"]
    uri = put(prefix, bundle, lines(500))
    parts = [infer(prefix, shard, output_format="parquet") for shard in plan(uri, 2)]
    with pytest.raises(DeliveryRefusedError, match="the shards wrote parquet"):
        merge(prefix, parts, output_format="jsonl")
    merged = merge(prefix, parts)
    assert merged["output_uri"].endswith("/results.parquet")
    assert merge(prefix, parts) == merged


def test_failed_records_are_run_again(prefix: str, bundle: Path, connections: None) -> None:
    uri = put(prefix, bundle, lines(500))
    merged = merge(prefix, [infer(prefix, shard) for shard in plan(uri, 2)])
    assert merged["errors"] == 6
    hook = StorageHook()
    corrected = hook.read_bytes(merged["errors_uri"]).replace(b'"none"', b"[1,2,3,4]", 5)
    hook.write_bytes(f"{prefix}/corrected.jsonl", corrected)
    again = RetryFailedRecordsOperator(
        task_id="retry", errors_uri=f"{prefix}/corrected.jsonl", output_uri=f"{prefix}/again",
        bundle_uri=f"{prefix}/bundle.tar.gz",
    ).execute({})  # fmt: skip
    assert (again["records"], again["ok"], again["errors"]) == (6, 5, 1)
    [left] = [json.loads(line) for line in hook.read_bytes(again["errors_uri"]).splitlines()]
    assert left["error"]["uri"] == uri  # where it came from at first


def test_a_table_of_no_rows_is_refused(prefixes: dict[str, str], bundle: Path) -> None:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"x": pyarrow.array([], pyarrow.float32())}), file)
    uri = put(prefixes["file"], bundle, file.getvalue(), "in/none.parquet")
    with pytest.raises(InvalidRequestError, match="has no records: there is nothing to infer"):
        plan(uri, 4)


@pytest.mark.parametrize("name", ["out/errors.jsonl", "elsewhere.jsonl"])
def test_a_retry_replaces_no_results_of_its_batch(
    prefixes: dict[str, str], bundle: Path, connections: None, name: str
) -> None:
    prefix = prefixes["file"]
    uri = put(prefix, bundle, lines(500))
    merged = merge(prefix, [infer(prefix, shard) for shard in plan(uri, 1)])
    hook, before = StorageHook(), digests(prefix)
    hook.write_bytes(f"{prefix}/{name}", hook.read_bytes(merged["errors_uri"]))

    def retry(output: str) -> Any:
        return RetryFailedRecordsOperator(
            task_id="retry", errors_uri=f"{prefix}/{name}", output_uri=f"{prefix}/{output}",
            bundle_uri=f"{prefix}/bundle.tar.gz",
        ).execute({})  # fmt: skip

    with pytest.raises(InvalidRequestError, match="would replace: give an output_uri of its own"):
        retry("out")
    assert digests(prefix) == before
    assert retry("again") == retry("again")  # nothing corrected: the same error lines once more


def test_an_input_changed_under_the_job_is_refused(
    prefix: str, bundle: Path, connections: None
) -> None:
    uri = put(prefix, bundle, lines(1000))
    shards = plan(uri, 2)
    infer(prefix, shards[0])
    time.sleep(0.01)
    StorageHook().write_bytes(uri, lines(1000, bad_every=11))
    with pytest.raises(
        DeliveryRefusedError, match=r"input\.jsonl changed after the job was planned"
    ):
        infer(prefix, shards[1])


def test_the_budget_is_held_across_shards(prefix: str, bundle: Path, connections: None) -> None:
    uri = put(prefix, bundle, lines(2000, bad_every=20))  # 100 errors, 25 a shard
    shards = plan(uri, 4)
    for shard in shards[:2]:
        infer(prefix, shard, max_errors=60)
    with pytest.raises(DeliveryRefusedError, match=r"records failed, 60 may; read the error lines"):
        infer(prefix, shards[2], max_errors=60)
    parts = [infer(prefix, shard) for shard in shards]  # without a budget: it goes on, and ends
    with pytest.raises(DeliveryRefusedError, match=r"\(5\.00 %\) failed, 3\.0 % may"):
        merge(prefix, parts, max_error_percent=3)
    assert not StorageHook().exists(f"{prefix}/out/results.jsonl")
    assert merge(prefix, parts, max_error_percent=6)["errors"] == 100


def test_images_of_a_folder(
    prefix: str, connections: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 8, 8, 3])
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Reshape", ["pixels", "shape"], ["flat"]),
        onnx.helper.make_node("ReduceMean", ["flat", "axes"], ["scores"], keepdims=0),
    ]
    constants = {"shape": np.array([0, 64, 3]), "axes": np.array([1])}
    archive = bundle_of(
        tmp_path_factory.mktemp("images"), nodes, image, ["n", 3],
        {"image": np.zeros((1, 8, 8, 3), np.uint8)}, constants,
    )  # fmt: skip
    hook = StorageHook()
    hook.upload(archive, f"{prefix}/bundle.tar.gz")
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    for n, picture in enumerate(pictures):
        png = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
        hook.write_bytes(f"{prefix}/pictures/{n:03}.png", png)
    hook.write_bytes(f"{prefix}/pictures/broken.png", b"no picture")
    shards = plan(f"{prefix}/pictures/", 3, input_format="images",
                  listing_uri=f"{prefix}/listing.jsonl")  # fmt: skip
    assert shards == plan(f"{prefix}/pictures/", 3, input_format="images",
                          listing_uri=f"{prefix}/listing.jsonl")  # fmt: skip
    merged = merge(prefix, [infer(prefix, shard) for shard in shards])
    assert (merged["records"], merged["ok"], merged["errors"]) == (21, 20, 1)
    found = [json.loads(line) for line in hook.read_bytes(merged["output_uri"]).splitlines()]
    for n, picture in enumerate(pictures):
        assert found[n]["input"]["uri"].endswith(f"{n:03}.png")
        means = picture.reshape(64, 3).mean(axis=0)
        np.testing.assert_allclose(found[n]["output"]["scores"], means, rtol=1e-5)
    assert found[20]["error"]["uri"].endswith("broken.png")


TASK = """
import json, sys
from tests.integration.test_batch_operators import infer
infer(sys.argv[1], json.loads(sys.argv[2]), processes=2)
"""


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_tasks_killed_at_any_moment_end_in_the_same_bytes(
    prefixes: dict[str, str], bundle: Path, connections: None, kind: str
) -> None:
    prefix, chance = prefixes[kind], random.Random(11)
    uri = put(prefix, bundle, lines(150_000, bad_every=997))
    shards = plan(uri, 2)
    expected = merge(prefix, [infer(prefix, shard, processes=2) for shard in shards])
    before = digests(prefix)
    StorageHook().delete(expected["manifest_uri"])
    StorageHook().delete(expected["output_uri"])
    kills = 0
    for shard in shards:
        for attempt in range(8):
            task = subprocess.Popen(
                [sys.executable, "-c", TASK, prefix, json.dumps(shard)],
                cwd=PROJECT, start_new_session=True,
            )  # fmt: skip
            try:
                task.wait(chance.uniform(2.5, 5) if attempt < 3 else 120)
            except subprocess.TimeoutExpired:
                os.killpg(task.pid, signal.SIGKILL)
                task.wait()
                kills += 1
                continue
            assert task.returncode == 0
            break
        assert not StorageHook().exists(expected["output_uri"])
    assert kills
    merged = merge(prefix, [infer(prefix, shard, processes=2) for shard in shards])
    assert (merged["records"], merged["errors"]) == (150_000, 151)
    assert digests(prefix) == before


def _in_a_daemon(prefix: str, shard: Any, answer: Any) -> None:
    answer.put(infer(prefix, shard, processes=2))


def test_a_daemonic_process_as_celerys_runs_a_shard_in_processes(
    prefixes: dict[str, str], bundle: Path, connections: None
) -> None:
    """Celery's prefork children are daemonic: multiprocessing would refuse them children."""
    prefix = prefixes["file"]
    uri = put(prefix, bundle, lines(150_000, bad_every=0))
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    [shard] = plan(uri, 1)
    child = context.Process(target=_in_a_daemon, args=(prefix, shard, answer), daemon=True)
    child.start()
    assert answer.get(timeout=120)["ok"] == 150_000
    child.join(30)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shards": 0}, "shards is 0: give 1 to 1024"),
        ({"shards": 1025}, "shards is 1025: give 1 to 1024"),
        ({"input_format": "tables"}, "input format 'tables' is unknown"),
        ({"input_uri": "in/"}, "is a folder: say input_format='images'"),
        ({"input_uri": "in/empty.jsonl"}, "is empty: there is nothing to infer"),
        ({"input_uri": "in/data.xyz"}, "its name tells no format"),
    ],
)
def test_what_cannot_be_planned_is_said(
    prefixes: dict[str, str], bundle: Path, connections: None, given: dict[str, Any], says: str
) -> None:
    prefix = prefixes["file"]
    put(prefix, bundle, lines(10))
    hook = StorageHook()
    hook.write_bytes(f"{prefix}/in/empty.jsonl", b"")
    hook.write_bytes(f"{prefix}/in/data.xyz", b"x")
    wanted = {"input_uri": "in/input.jsonl", "shards": 2, **given}
    wanted["input_uri"] = f"{prefix}/{wanted['input_uri']}"
    with pytest.raises(InvalidRequestError, match=says):
        plan(wanted.pop("input_uri"), wanted.pop("shards"), **wanted)
