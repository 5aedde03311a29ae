"""Wrong input ends with one clear line in the failed task's log, and changes nothing."""

import io
import json
import tarfile
from typing import Any

import pytest

from stack.demo import COMPONENT, SAMPLES
from stack.object_store import BUCKET


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown device": ({"thing_name": "no-such-device"}, "deploy", "thing/no-such-device"),
    "missing archive": (
        {"model_uri": f"{SAMPLES}/none.tar.gz"}, "stage_inputs",
        f"{SAMPLES}/none.tar.gz does not exist: put it there",
    ),
    "missing bucket": (
        {"model_uri": "s3://no-such-bucket/a.tar.gz"}, "stage_inputs",
        "s3://no-such-bucket/a.tar.gz: the bucket does not exist",
    ),
    "missing input": (
        {"input_uri": f"{SAMPLES}/none.jsonl"}, "stage_inputs", "none.jsonl does not exist",
    ),
    "truncated archive": ({"model_uri": f"{SAMPLES}/cut.tar.gz"}, "compile", "ClientError"),
    "archive with ..": ({"model_uri": f"{SAMPLES}/up.tar.gz"}, "compile", "../model.onnx"),
    "absolute member": ({"model_uri": f"{SAMPLES}/abs.tar.gz"}, "compile", "/etc/model.onnx"),
    "wrong input name": (
        {"data_input_config": {"picture": [-1, 64]}}, "compile",
        "'picture' is no input of the model; input 'image' is missing",
    ),
    "wrong input shape": ({"data_input_config": {"image": [-1, 65]}}, "compile", "image"),
    "gate closed": ({"min_accuracy": 0.999}, "quality_gate", "gate closed: accuracy 0.97"),
    "unknown conf key": (
        {"modle_uri": f"{SAMPLES}/digits.tar.gz"}, "stage_inputs",
        "conf has 'modle_uri', which is no Param of model_delivery: did you mean model_uri?",
    ),
    "missing device connection": (
        {"edge_conn_id": "edge_of_nobody"}, "stage_inputs",
        "edge_conn_id needs the connection 'edge_of_nobody', and Airflow has no such connection",
    ),
    "wrong label field": ({"label_field": "klass"}, "quality_gate", "no label field 'klass'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad_runs(world: Any, delivered: Any) -> dict[str, str]:
    """All bad runs, started together: Airflow works them off as it can."""
    good = (world.samples / "digits.tar.gz").read_bytes()
    uploads = {
        "cut.tar.gz": good[: len(good) // 2],
        "up.tar.gz": _archive({"../model.onnx": b"x"}),
        "abs.tar.gz": _archive({"/etc/model.onnx": b"x"}),
    }
    for name, data in uploads.items():
        world.s3.put_object(Bucket=BUCKET, Key=f"samples/{name}", Body=data)
    world.before = world.stack.device_model(COMPONENT)
    return {name: world.start(**conf) for name, (conf, _task, _line) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_failed_task_says_what_and_what_next(
    world: Any, bad_runs: dict[str, str], name: str
) -> None:
    _conf, task_id, line = CASES[name]
    state, tasks = world.finish(bad_runs[name])
    assert state == "failed"
    failed = tasks[f"{task_id}:-1"]
    assert failed["state"] == "failed"
    log = world.log(failed)
    assert line in log, log[-2000:]


def test_nothing_half_written_lies_in_the_bucket(world: Any, bad_runs: dict[str, str]) -> None:
    for name, run_id in bad_runs.items():
        prefix = f"deliveries/{run_id}/"
        found = world.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        keys = {each["Key"].removeprefix(prefix) for each in found}
        stage = CASES[name][1]
        if stage == "stage_inputs":
            assert keys == set(), name
        if stage == "compile":
            assert keys == {"model/model.tar.gz", "input/input.jsonl"}, name


def test_the_device_keeps_what_it_had(world: Any, bad_runs: dict[str, str]) -> None:
    assert world.stack.device_model(COMPONENT) == world.before


def test_rest_refuses_what_the_form_refuses(world: Any) -> None:
    from stack.rest import AirflowRefusedError

    with pytest.raises(AirflowRefusedError, match=r"400|422"):
        world.start(shards=0)
    with pytest.raises(AirflowRefusedError, match=r"400|422"):
        world.start(target_device="toaster")


def test_a_bad_record_is_an_error_record_not_a_failed_run(world: Any) -> None:
    lines = (world.samples / "held_out.jsonl").read_bytes().splitlines()[:60]
    lines[7] = b'{"id": "broken", "image": [1, 2], "label": 3}'
    world.s3.put_object(Bucket=BUCKET, Key="samples/one_bad.jsonl", Body=b"\n".join(lines))
    run_id = world.start(
        input_uri=f"{SAMPLES}/one_bad.jsonl", max_error_fraction=0.05, min_accuracy=0.5,
        max_unreviewed_error=1.0,  # a tenth of so few records is no sample to tell much from
    )  # fmt: skip
    state, tasks = world.finish(run_id)
    assert state == "success"
    merged = world.rest.xcom(tasks["merge_results:-1"])
    assert (merged["records"], merged["ok"], merged["errors"]) == (60, 59, 1)
    key = merged["errors_uri"].removeprefix(f"s3://{BUCKET}/")
    (line,) = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().splitlines()
    error = json.loads(line)["error"]
    assert error["offset"] == sum(len(each) + 1 for each in lines[:7])
    assert "[2]" in error["reason"]
