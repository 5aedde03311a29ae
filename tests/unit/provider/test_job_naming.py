"""Names of jobs: what every service accepts, equal on a retry, different for different work."""

import random
import re
import string
from collections.abc import Callable
from typing import Any

import pytest
from model_delivery.jobs.naming import job_name

PATTERN = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
ALPHABET = string.ascii_letters + string.digits + "_-.~+:äß模型 "

TaskInstances = Callable[..., Any]


def generated_ids(count: int) -> list[tuple[str, str, str]]:
    rng = random.Random(20260101)

    def one(longest: int) -> str:
        return "".join(rng.choices(ALPHABET, k=rng.randint(1, longest)))

    return [(one(250), one(250), one(250)) for _ in range(count)]


def test_any_identity_makes_a_name_that_every_service_accepts(task_instance: TaskInstances) -> None:
    for dag_id, task_id, run_id in [*generated_ids(400), ("_", "-", "x"), ("模", "型", "r")]:
        name = job_name(task_instance(dag_id=dag_id, task_id=task_id, run_id=run_id))
        assert len(name) <= 63
        assert PATTERN.fullmatch(name), name


def test_different_work_has_different_names(task_instance: TaskInstances) -> None:
    ids = set(generated_ids(400))
    assert len({job_name(task_instance(dag_id=d, task_id=t, run_id=r)) for d, t, r in ids}) == len(
        ids
    )


@pytest.mark.parametrize(
    "change",
    [
        {"map_index": 3},
        {"run_id": "manual__2026-01-02"},
        {"task_id": "compile_2"},
        {"dag_id": "other"},
    ],
    ids=["map index", "run", "task", "dag"],
)
def test_the_name_differs_by(change: dict[str, Any], task_instance: TaskInstances) -> None:
    assert job_name(task_instance(**change)) != job_name(task_instance())


def test_a_clear_makes_another_name(task_instance: TaskInstances) -> None:
    assert job_name(task_instance(), 3) != job_name(task_instance())


def test_ids_that_only_differ_past_the_cut_or_in_the_cut_characters_differ(
    task_instance: TaskInstances,
) -> None:
    long = "d" * 200
    assert job_name(task_instance(dag_id=long + "1")) != job_name(task_instance(dag_id=long + "2"))
    assert job_name(task_instance(task_id="a.b")) != job_name(task_instance(task_id="a_b"))


def test_a_retry_has_the_name_of_the_first_try(task_instance: TaskInstances) -> None:
    assert job_name(task_instance(try_number=2)) == job_name(task_instance(try_number=1))


def test_each_generation_has_a_name_of_its_own(task_instance: TaskInstances) -> None:
    assert len({job_name(task_instance(), 0, generation) for generation in range(50)}) == 50


def test_the_name_begins_with_what_people_look_for(task_instance: TaskInstances) -> None:
    assert job_name(task_instance()).startswith("model-delivery-compile-")
