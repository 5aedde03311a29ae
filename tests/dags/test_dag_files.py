"""Every DAG file: it imports, is light, and its params make a form that refuses bad values."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from model_delivery.conf import refuse_unordered
from model_delivery.exceptions import InvalidRequestError

PROJECT = Path(__file__).resolve().parents[2]
DAG_FILES = sorted((PROJECT / "dags").glob("*.py"))
HEAVY = ["boto3", "botocore", "aiobotocore", "numpy", "onnx", "onnxruntime", "matplotlib", "azure"]


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(PROJECT / "dags")


def test_every_dag_file_imports(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {path.stem for path in DAG_FILES}


def test_every_dag_survives_serialisation(bag: DagBag) -> None:
    for dag in bag.dags.values():
        again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        assert [task.task_id for task in again.tasks] == [task.task_id for task in dag.tasks]


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_dag_file_imports_nothing_heavy(path: Path) -> None:
    """What counts is what the file adds: for any Asset with a URI, Airflow loads boto3 itself."""
    program = (
        "import sys, airflow.sdk\n"
        "airflow.sdk.Asset(name='any', uri='s3://bucket/key')\n"
        "before = set(sys.modules)\n"
        f"import runpy; runpy.run_path({str(path)!r})\n"
        f"print([name for name in {HEAVY!r} if name in set(sys.modules) - before])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_uri", "s3://model-delivery/model.zip"),
        ("model_uri", "https://example.com/model.tar.gz"),
        ("input_uri", "held_out.jsonl"),
        ("data_input_config", {"image": [-2, 64]}),
        ("data_input_config", {}),
        ("data_input_config", "image"),
        ("data_input_config", []),
        ("data_input_config", {"image": []}),
        ("data_input_config", {"image": [0, 64]}),
        ("framework", "CAFFE"),
        ("target_device", "toaster"),
        ("thing_name", "edge 1"),
        ("thing_name", "edge-1\n"),
        ("model_uri", "s3://model-delivery/model.tar.gz\n"),
        ("min_accuracy", 1.2),
        ("max_error_fraction", -0.1),
        ("shards", 0),
        ("shards", 2.5),
        ("output_uri", "deliveries"),
        ("output_uri", "file:///tmp"),
        ("compiler_options", "fp16"),
    ],
)
def test_a_bad_param_is_refused(bag: DagBag, name: str, value: object) -> None:
    _refuses(bag, "model_delivery", name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_devices", []),
        ("target_devices", ["ml_c5", "ml_c5"]),
        ("target_devices", ["ML C5"]),
        ("target_devices", "ml_c5"),
        ("data_input_config", "pixels"),
        ("compiler_options", []),
        ("framework", "CAFFE"),
        ("model_uri", "s3://model-delivery/model.zip"),
    ],
)
def test_a_bad_param_of_a_compilation_is_refused(bag: DagBag, name: str, value: object) -> None:
    _refuses(bag, "compile_model", name, value)


def _refuses(bag: DagBag, dag_id: str, name: str, value: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = bag.dags[dag_id].params.get_param(name)
    param.resolve()
    with pytest.raises(ParamValidationError):
        param.resolve(value)


CONFIGURED = [("compile_model", "each_target.compile"), ("compile_model", "each_target.bundle"),
              ("model_delivery", "compile"), ("model_delivery", "bundle")]  # fmt: skip


@pytest.mark.parametrize(("dag_id", "task_id"), CONFIGURED)
@pytest.mark.parametrize(
    ("value", "rendered"),
    [
        ({"x_first": [-1, 4], "a_second": [1, 4]}, '{"x_first": [-1, 4], "a_second": [1, 4]}'),
        ('{"x": [-1, 4], "a": [1, 4]}', '{"x": [-1, 4], "a": [1, 4]}'),
        ([[-1, 4], [1, 4]], "[[-1, 4], [1, 4]]"),
        (None, ""),
    ],
)
def test_shapes_keep_their_order(
    bag: DagBag, dag_id: str, task_id: str, value: object, rendered: str
) -> None:
    """The order of inputs decides with PyTorch."""
    dag = bag.dags[dag_id]
    task = dag.get_task(task_id)
    template = getattr(task, "data_input_config", None) or task.partial_kwargs["data_input_config"]
    found = dag.get_template_env().from_string(template).render(params={"data_input_config": value})
    assert found == rendered


def test_an_object_of_several_inputs_is_refused_where_their_order_decides() -> None:
    """Postgres gives the names of an object back in an order of its own."""
    config = {"x_first": [-1, 4], "a_second": [-1, 4]}
    with pytest.raises(InvalidRequestError, match=r"give it as text, .*x_first"):
        refuse_unordered({"framework": "PYTORCH", "data_input_config": config})
    for params in (
        {"framework": "PYTORCH", "data_input_config": json.dumps(config)},
        {"framework": "PYTORCH", "data_input_config": [[-1, 4], [-1, 4]]},
        {"framework": "PYTORCH", "data_input_config": {"x": [-1, 4]}},
        {"framework": "ONNX", "data_input_config": config},
        {},
    ):
        refuse_unordered(params)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interactions_uri", "s3://model-delivery/interactions.json"),
        ("items_uri", "file:///items.csv"),
        ("solution_version_arn", "films"),
        ("filter_arn", "arn:aws:personalize:us-east-1:000000000000:solution/x"),
        ("factors", 0),
        ("num_results", 501),
        ("output_uri", "recommendations"),
    ],
)
def test_a_bad_param_of_a_recommendation_is_refused(bag: DagBag, name: str, value: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = bag.dags["recommend_batch"].params.get_param(name)
    param.resolve()
    with pytest.raises(ParamValidationError):
        param.resolve(value)


def test_every_param_is_documented(bag: DagBag) -> None:
    for dag in bag.dags.values():
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema.get("title"), f"{dag.dag_id}.{name} has no title"
            assert param.schema.get("type"), f"{dag.dag_id}.{name} has no type"
