"""The examples of the operators' pages: each is a DAG file that imports."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseOperator
from model_delivery.operators import (
    documents,
    flow_definitions,
    human_loops,
    human_review,
    human_task_uis,
    inference,
    personalize,
    quality_gate,
)
from model_delivery.sensors import human_review as review_sensors
from model_delivery.sensors import personalize as personalize_sensors

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "operators").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_of_a_page_is_a_dag_with_its_operator(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    (dag,) = bag.dags.values()
    title = text.splitlines()[0].removeprefix("# ")
    assert title in {type_of(task) for task in dag.tasks}


def type_of(task: BaseOperator) -> str:
    return task.task_type


COMPILATION = {
    "BundleModelOperator",
    "CompareCompilationsOperator",
    "CompilationJobSensor",
    "CreateCompilationJobOperator",
    "DeleteCompilationJobOperator",
    "ListCompilationJobsOperator",
    "StopCompilationJobOperator",
}
HUMAN_REVIEW = [
    documents, flow_definitions, human_loops, human_review, human_task_uis, quality_gate,
    review_sensors,
]  # fmt: skip


BATCHES = [inference, personalize, personalize_sensors]


def operators_of(module: ModuleType) -> set[str]:
    return {
        name
        for name, found in vars(module).items()
        if isinstance(found, type)
        and issubclass(found, BaseOperator)
        and found.__module__ == module.__name__
        and not name.startswith("_")
    }


def test_every_operator_of_compilation_review_and_batches_has_a_page() -> None:
    titles = {page.read_text().splitlines()[0].removeprefix("# ") for page in PAGES}
    assert titles >= COMPILATION.union(*map(operators_of, [*HUMAN_REVIEW, *BATCHES]))
    assert operators_of(human_loops) == {"StartHumanLoopsOperator", "StopHumanLoopsOperator"}
