"""The examples of the operators' pages: each is a DAG file that imports."""

import re
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseOperator

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


def test_every_operator_of_compilation_has_a_page() -> None:
    titles = {page.read_text().splitlines()[0].removeprefix("# ") for page in PAGES}
    assert titles >= {
        "BundleModelOperator",
        "CompareCompilationsOperator",
        "CompilationJobSensor",
        "CreateCompilationJobOperator",
        "DeleteCompilationJobOperator",
        "ListCompilationJobsOperator",
        "StopCompilationJobOperator",
    }
