"""What holds for every class of the provider, found by walking its modules."""

import importlib
import inspect
import math
import pkgutil
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import model_delivery
import pytest
from airflow.models.trigger import Trigger
from airflow.sdk import BaseOperator
from airflow.sdk.bases.sensor import BaseSensorOperator
from airflow.triggers.base import BaseTrigger
from model_delivery import xcom
from model_delivery.aws import import_string
from model_delivery.exceptions import InvalidRequestError
from model_delivery.jobs.operator import JobOperator
from model_delivery.jobs.sensor import JobSensor
from model_delivery.sensors.compilation import CompilationJobSensor
from model_delivery.storage_connected import StorageConnected

from tests.nameless.provider import NamelessJobOperator

DAG_FACING = ("operators", "sensors", "triggers", "links", "jobs")
HEAVY = ["boto3", "botocore", "aiobotocore", "numpy", "onnx", "onnxruntime", "azure.storage"]


@cache
def modules() -> list[str]:
    """Every module of the package; pages need an API server and are left out."""
    found = pkgutil.walk_packages(model_delivery.__path__, "model_delivery.")
    return [each.name for each in found if not each.name.startswith("model_delivery.pages")]


def classes(base: type) -> list[type]:
    """Return the concrete subclasses that the package defines."""
    return sorted(set(_classes(base)), key=lambda each: each.__qualname__)


def _classes(base: type) -> Iterator[type]:
    for name in modules():
        for each in vars(importlib.import_module(name)).values():
            if isinstance(each, type) and issubclass(each, base) and _is_offered(each):
                yield each


def _is_offered(each: type) -> bool:
    ours = each.__module__.startswith("model_delivery.")
    base = each in (JobOperator, JobSensor, StorageConnected) or each.__name__.startswith("_")
    return ours and not base and not inspect.isabstract(each)


OPERATORS = classes(BaseOperator)
TRIGGERS = classes(BaseTrigger)


def settings(cls: type) -> dict[str, Any]:
    """Every keyword of a class and its bases up to Airflow's, each with a value of its own."""
    made: dict[str, Any] = {}
    for each in cls.__mro__:
        if each.__module__.startswith("model_delivery"):
            for parameter in inspect.signature(each.__init__).parameters.values():
                if parameter.kind is parameter.KEYWORD_ONLY:
                    made.setdefault(parameter.name, SPECIAL.get(parameter.name))
                    if made[parameter.name] is None:
                        made[parameter.name] = f"{parameter.name} of the test"
    return made


SPECIAL: dict[str, Any] = {
    "uri": "s3://bucket/prefix/",
    "poll_interval": 7.5,
    "max_poll_interval": 75.5,
    "outage_timeout": 450.5,
    "verify": False,
    "botocore_config": {"connect_timeout": 3},
    "handle": {"name": "job", "arn": "arn"},
    "job_timeout": 60.0,
    "stage_timeout": 90.5,
    "offline_after": 30.5,
    "deferrable": True,
    "wait_for_completion": False,
}


def test_a_setting_that_no_trigger_can_take_is_refused_before_anything_is_made() -> None:
    config = {"retries": object()}
    with pytest.raises(InvalidRequestError, match=r"botocore_config .* not JSON serializable"):
        CompilationJobSensor(task_id="t", deferrable=True, job_name="j", botocore_config=config)


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 0, -1, "60"])
@pytest.mark.parametrize(
    "setting", ["poll_interval", "max_poll_interval", "job_timeout", "outage_timeout"]
)
def test_what_is_no_time_is_refused_where_the_task_is_written(setting: str, seconds: Any) -> None:
    given = {"model": "m", "sources": [], setting: seconds}
    with pytest.raises(InvalidRequestError, match=f"{setting} is .*: give seconds, over 0"):
        NamelessJobOperator(task_id="t", **given)


def test_the_walk_finds_the_package() -> None:
    names = {each.__name__ for each in OPERATORS}
    assert {"CreateCompilationJobOperator", "DeploymentSensor", "CopyObjectsOperator"} <= names
    assert {each.__name__ for each in TRIGGERS} >= {"JobTrigger", "NewObjectTrigger"}


@pytest.mark.parametrize("cls", TRIGGERS, ids=lambda each: each.__name__)
def test_a_trigger_survives_its_serialisation_with_every_setting(cls: type[BaseTrigger]) -> None:
    given = settings(cls)
    path, kept = cls(**given).serialize()
    assert path == f"{cls.__module__}.{cls.__qualname__}"
    assert kept == given
    assert import_string(path)(**kept).serialize() == (path, kept)
    # As Airflow keeps it.
    assert Trigger._decrypt_kwargs(Trigger.encrypt_kwargs(kept)) == kept


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda each: each.__name__)
def test_every_template_field_is_an_attribute(cls: type[BaseOperator]) -> None:
    task = cls(task_id="task", **settings(cls))
    assert task.template_fields
    for field in task.template_fields:
        assert hasattr(task, field), field


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda each: each.__name__)
def test_an_operator_keeps_every_setting_it_takes(cls: type[BaseOperator]) -> None:
    given = settings(cls)
    task = cls(task_id="task", **given)
    assert {name: getattr(task, name) for name in given} == given


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda each: each.__name__)
def test_an_operator_takes_every_setting_from_the_dags_default_args(
    cls: type[BaseOperator],
) -> None:
    given = settings(cls)
    task = cls(task_id="task", default_args=given)
    assert {name: getattr(task, name) for name in given} == given


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda each: each.__name__)
def test_an_operator_takes_every_setting_before_it_is_mapped(cls: type[BaseOperator]) -> None:
    given = settings(cls)
    (first, value), *rest = given.items()
    mapped = cls.partial(task_id="task", **dict(rest)).expand(**{first: [value]})
    assert mapped.partial_kwargs.items() >= dict(rest).items()


def result_type(cls: type) -> Any:
    """Return what a task leaves in XCom; a lifecycle's class says it in `result`."""
    lifecycle = issubclass(cls, (JobOperator, JobSensor))
    hints = get_type_hints(cls.result if lifecycle else cls.execute)
    annotation = hints["return"]
    if get_origin(annotation) is types.UnionType:
        (annotation,) = [each for each in get_args(annotation) if each is not types.NoneType]
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda each: each.__name__)
def test_what_goes_to_xcom_is_a_versioned_type(cls: type) -> None:
    result = result_type(cls)
    assert is_typeddict(result)
    assert result.__module__ == xcom.__name__
    fields = get_type_hints(result)
    assert next(iter(fields)) == "version"
    assert fields["version"] is int


def test_every_xcom_type_is_used_and_versioned() -> None:
    declared = {each for each in vars(xcom).values() if is_typeddict(each)}
    assert declared == {result_type(cls) for cls in OPERATORS}


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda each: each.__name__)
def test_every_parameter_is_documented(cls: type) -> None:
    bases = [each for each in cls.__mro__ if each.__module__.startswith("model_delivery")]
    text = " ".join(inspect.getdoc(each) or "" for each in bases)
    shared = {"aws_conn_id", "wasb_conn_id"}  # said once, by the base class
    undocumented = [name for name in set(settings(cls)) - shared if f":param {name}:" not in text]
    assert undocumented == []


def test_what_a_dag_file_imports_is_light() -> None:
    """In a fresh interpreter, against what Airflow itself had already imported."""
    facing = [name for name in modules() if name.split(".")[1] in DAG_FACING]
    program = (
        "import sys, importlib, airflow.sdk, airflow.triggers.base\n"
        "import airflow.sdk.bases.sensor, airflow.providers.common.compat.sdk\n"
        "before = set(sys.modules)\n"
        f"for name in {facing!r}:\n"
        "    importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in set(sys.modules) - before])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_sensor_waits_without_a_worker_when_it_is_told_to() -> None:
    sensors = [each for each in OPERATORS if issubclass(each, BaseSensorOperator)]
    assert sensors
    for each in sensors:
        assert "deferrable" in settings(each)
