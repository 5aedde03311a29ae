"""The compilation operators, sensor and hook against a real localcloud."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import onnx
import pytest
from model_delivery.exceptions import (
    DeliveryRefusedError,
    JobEndedError,
    JobMissingError,
    JobRefusedError,
)
from model_delivery.hooks.compilation import CompilationJobHook
from model_delivery.hooks.storage import StorageHook
from model_delivery.operators.bundle import BundleModelOperator
from model_delivery.operators.compilation import (
    CreateCompilationJobOperator,
    DeleteCompilationJobOperator,
    ListCompilationJobsOperator,
    StopCompilationJobOperator,
)
from model_delivery.sensors.compilation import CompilationJobSensor
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import Bundle, open_bundle
from model_delivery_engine.errors import InferenceError
from model_delivery_engine.runtime import Model, check_golden

from stack.airflow import aws_connection
from stack.object_store import BUCKET
from tests.unit.provider.conftest import StateStore, make_task_instance

ROLE = "arn:aws:iam::000000000000:role/compiler"
NEVER = "s3://contract/models/never.tar.gz"
CONFIG = {"pixels": [4, 8]}


class Task(SimpleNamespace):
    """What an operator asks of its task instance, and what it pushes."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture(autouse=True)
def connection(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set `aws_default` to a region of the test's own, where no other test has jobs."""
    store = f"http://127.0.0.1:{cloud.store.port}"
    made = aws_connection(cloud.store.credentials, cloud.url, store)
    made["extra"]["region_name"] = "eu-north-1"  # type: ignore[index]
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(made))
    level = logging.getLogger("airflow").level
    yield
    logging.getLogger("airflow").setLevel(level)


@pytest.fixture
def context() -> dict[str, Any]:
    facts = vars(make_task_instance(run_id=uuid4().hex))
    return {"ti": Task(**facts, pushed={}), "task_state_store": StateStore()}


def create(uri: str = NEVER, **changes: Any) -> CreateCompilationJobOperator:
    given = {
        "role_arn": ROLE,
        "model_uri": uri,
        "framework": "ONNX",
        "data_input_config": CONFIG,
        "output_uri": f"s3://{BUCKET}/operators/{uuid4().hex}",
        "target_device": "ml_c5",
        "poll_interval": 0.2,
        "deferrable": False,
        **changes,
    }
    return CreateCompilationJobOperator(task_id="compile", **given)


def started(context: Any, **changes: Any) -> str:
    made = create(wait_for_completion=False, **changes).execute(context)
    return str(made["job_name"])


def test_a_model_is_compiled_and_its_bundle_verified(
    context: Any, cloud: Any, worker: None, put: Any, archive: Any
) -> None:
    uri = put(archive())
    made = create(uri, tags={"team": "digits"}).execute(context)
    assert made["status"] == "COMPLETED"
    assert context["ti"].pushed["job"]["job_arn"] == made["job_arn"]
    hook = CompilationJobHook("aws_default")
    assert hook.list_tags(made["job_arn"]) == {"team": "digits"}
    assert hook.add_tags(made["job_arn"], {"a": "1"}) == {"a": "1"}
    hook.delete_tags(made["job_arn"], ["team"])
    assert hook.list_tags(made["job_arn"]) == {"a": "1"}

    sensed = CompilationJobSensor(
        task_id="wait", job_name=made["job_name"], poke_interval=1, timeout=10
    ).execute(context)
    assert sensed == made
    bundled = bundle_of(uri, made["output_uri"]).execute(context)
    assert bundled["output_uri"] == made["output_uri"]
    assert (bundled["runtime"], bundled["wrapped"]) == ("onnxruntime", False)
    assert bundled["digest"] == made["digest"]


def test_a_bundle_that_another_job_wrote_over_is_refused(
    context: Any, worker: None, put: Any, archive: Any
) -> None:
    place = f"s3://{BUCKET}/operators/{uuid4().hex}"
    uri = put(archive())
    first = create(uri, output_uri=place).execute(context)
    digest = {"artifact_digest": first["digest"]}
    assert bundle_of(uri, first["output_uri"], **digest).execute(context)["wrapped"] is False
    facts = vars(make_task_instance(run_id=uuid4().hex))
    another = {"ti": Task(**facts, pushed={}), "task_state_store": StateStore()}
    later = create(put(archive(width=24)), output_uri=place).execute(another)
    assert later["output_uri"] == first["output_uri"]
    with pytest.raises(DeliveryRefusedError, match="another job wrote to the same place"):
        bundle_of(uri, first["output_uri"], **digest).execute(context)


def test_a_models_fault_fails_the_task_for_good_with_its_type(
    context: Any, worker: None, put: Any
) -> None:
    with pytest.raises(JobRefusedError, match="ClientError: ARCHIVE_INVALID"):
        create(put(b"no archive")).execute(context)


def test_a_job_is_stopped_and_deleted_and_a_retry_finds_nothing_to_do(context: Any) -> None:
    name = started(context)
    stop = StopCompilationJobOperator(task_id="stop", job_name=name, poll_interval=0.2)
    assert stop.execute(context)["status"] == "STOPPED"
    assert stop.execute(context)["status"] == "STOPPED"
    sensor = CompilationJobSensor(task_id="wait", job_name=name, poke_interval=1, timeout=10)
    with pytest.raises(JobEndedError, match="ended STOPPED"):
        sensor.execute(context)
    delete = DeleteCompilationJobOperator(task_id="delete", job_name=name)
    assert delete.execute(context) == {"version": 1, "job_name": name, "deleted": True}
    assert delete.execute(context) == {"version": 1, "job_name": name, "deleted": False}
    with pytest.raises(JobMissingError, match=name):
        stop.execute(context)


def test_a_job_that_runs_is_not_deleted(context: Any) -> None:
    name = started(context)
    with pytest.raises(JobRefusedError, match=f"{name}.*stop it first"):
        DeleteCompilationJobOperator(task_id="delete", job_name=name).execute(context)


def test_jobs_are_listed_to_storage_with_every_filter(context: Any) -> None:
    names = []
    for _ in range(3):
        context["ti"].run_id = uuid4().hex
        names.append(started({**context, "task_state_store": StateStore()}))
    StopCompilationJobOperator(task_id="stop", job_name=names[0]).execute(context)
    hook = CompilationJobHook("aws_default")
    described = {name: hook.describe_job(name) for name in names}
    uri = f"s3://{BUCKET}/operators/{uuid4().hex}.jsonl"
    listed = ListCompilationJobsOperator(
        task_id="list",
        output_uri=uri,
        name_contains="compile",
        status="STOPPED",
        created_before="2100-01-01T00:00:00",
        created_after="2026-01-01T00:00:00+00:00",
        modified_after="2026-01-01T00:00:00+00:00",
        modified_before="2100-01-01T00:00:00+02:00",
        sort_by="Name",
        sort_order="Descending",
    ).execute(context)
    assert names[0] in listed["job_names"]
    lines = StorageHook().read_bytes(uri).decode().splitlines()
    assert [json.loads(line)["CompilationJobName"] for line in lines] == listed["job_names"]
    assert {json.loads(line)["CompilationJobStatus"] for line in lines} == {"STOPPED"}
    created = [json.loads(line)["CreationTime"] for line in lines]
    assert all(time == datetime.fromisoformat(time).isoformat() for time in created), created

    # The iterator pages as it goes, and stops asking when no more is wanted.
    everything = [job["CompilationJobName"] for job in hook.list_jobs(page_size=2)]
    assert set(names) <= set(everything)
    assert len(list(hook.list_jobs(page_size=2, limit=3))) == 3
    newest = hook.list_jobs(
        created_after=described[names[1]]["CreationTime"], sort_order="Ascending"
    )
    assert [job["CompilationJobName"] for job in newest] == [names[2]]
    two = ListCompilationJobsOperator(task_id="list", limit=2).execute(context)
    assert (two["count"], two["output_uri"]) == (2, "")
    with pytest.raises(JobRefusedError, match="enum value set"):
        ListCompilationJobsOperator(task_id="list", status="MELTED").execute(context)
    with pytest.raises(DeliveryRefusedError, match="created_after is 'yesterday', not a time"):
        ListCompilationJobsOperator(task_id="list", created_after="yesterday").execute(context)
    for limit in (0, -1, "few"):
        with pytest.raises(DeliveryRefusedError, match=f"limit is {limit!r}: give a whole number"):
            ListCompilationJobsOperator(task_id="list", limit=limit).execute(context)


def bundle_of(model: str, artifact: str, **changes: Any) -> BundleModelOperator:
    given = {
        "model_uri": model,
        "artifact_uri": artifact,
        "output_uri": f"s3://{BUCKET}/operators/{uuid4().hex}/bundle.tar.gz",
        "framework": "ONNX",
        "data_input_config": CONFIG,
        "target_device": "ml_c5",
        **changes,
    }
    return BundleModelOperator(task_id="bundle", **given)


@pytest.fixture
def artifact(tmp_path: Path, put: Any) -> Callable[[dict[str, bytes]], str]:
    """Put an archive of files, as a compiler other than ours would leave one."""

    def put_files(files: dict[str, bytes]) -> str:
        folder = tmp_path / uuid4().hex
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        pack_archive(folder, tmp_path / "artifact.tar.gz")
        return str(put((tmp_path / "artifact.tar.gz").read_bytes()))

    return put_files


def opened(uri: str, folder: Path) -> Bundle:
    StorageHook().download(uri, folder / "bundle.tar.gz")
    return open_bundle(folder / "bundle.tar.gz", folder / "opened")


def test_a_vendors_artifact_is_wrapped_for_its_own_runtime(
    context: Any, put: Any, archive: Any, artifact: Any, tmp_path: Path
) -> None:
    model = put(archive())
    given = artifact({"compiled.so": b"\x7fELF", "compiled.params": b"weights"})
    options = '"--verbose 1 -O2"'
    made = bundle_of(
        model, given, target_device="ml_inf1", compiler_options=options, model_name="digits"
    ).execute(context)
    assert (made["runtime"], made["wrapped"]) == ("neo", True)
    bundle = opened(made["output_uri"], tmp_path)
    manifest = bundle.manifest
    assert (manifest.name, manifest.target.accelerator) == ("digits", "INFERENTIA")
    assert manifest.parity is None
    assert manifest.source.uri == model
    assert bundle.golden_outputs["scores"].shape == (4, 16)
    assert bundle.model_path.read_bytes() == StorageHook().read_bytes(given)
    with pytest.raises(InferenceError, match="for the runtime 'neo'"):
        Model.load(bundle)


def classifier(data: bytes, change: float = 1.0) -> bytes:
    """Return the ONNX file of a model archive, its weights scaled."""
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        assert member is not None
        model = onnx.load(member)
    for tensor in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor) * change
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights.astype("float32"), tensor.name))
    return bytes(model.SerializeToString())


def test_an_artifact_that_opens_here_is_held_to_the_source_model(
    context: Any, put: Any, archive: Any, artifact: Any, tmp_path: Path
) -> None:
    data = archive()
    model = put(data)
    made = bundle_of(model, artifact({"model.onnx": classifier(data)})).execute(context)
    assert (made["runtime"], made["wrapped"]) == ("onnxruntime", True)
    bundle = opened(made["output_uri"], tmp_path)
    assert bundle.manifest.parity is not None
    assert bundle.manifest.latency is not None
    check_golden(Model.load(bundle), bundle)
    worse = artifact({"model.onnx": classifier(data, 1.5)})
    with pytest.raises(DeliveryRefusedError, match="misses the source model"):
        bundle_of(model, worse).execute(context)
    other = artifact({"model.onnx": classifier(archive(width=12))})
    with pytest.raises(DeliveryRefusedError, match="not the same model"):
        bundle_of(model, other).execute(context)


def test_an_artifact_may_be_called_as_its_source_is(
    context: Any, cloud: Any, put: Any, archive: Any, artifact: Any, tmp_path: Path
) -> None:
    model, given = put(archive()), artifact({"compiled.so": b"\x7fELF"})
    for number, name in enumerate(("digits.tar.gz", "source-digits.tar.gz")):
        place = f"named/{uuid4().hex}/{name}"
        copied = {"Bucket": BUCKET, "Key": given.removeprefix(f"s3://{BUCKET}/")}
        cloud.store.client().copy_object(Bucket=BUCKET, Key=place, CopySource=copied)
        made = bundle_of(model, f"s3://{BUCKET}/{place}").execute(context)
        assert made["runtime"] == "neo"
        (tmp_path / str(number)).mkdir()
        bundle = opened(made["output_uri"], tmp_path / str(number))
        assert bundle.model_path.read_bytes() == StorageHook().read_bytes(given)


def test_what_is_no_artifact_is_refused(context: Any, put: Any, archive: Any) -> None:
    with pytest.raises(DeliveryRefusedError, match="corrupt or truncated"):
        bundle_of(put(archive()), put(b"no archive")).execute(context)
