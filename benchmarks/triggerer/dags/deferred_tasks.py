"""Mapped tasks that each defer for a few seconds: without work, and for a compilation job."""

import os
import time
from typing import Any

from airflow.sdk import DAG, BaseOperator, BaseOperatorLink, Context
from model_delivery.operators.compilation import CreateCompilationJobOperator

from benchmarks.triggerer.idle import IdleTrigger

COUNT = int(os.environ["BENCH_TASKS"])
WAIT_SECONDS = float(os.environ["BENCH_WAIT_SECONDS"])


class IdleOperator(BaseOperator):
    """Defers once, to a trigger that sleeps: what Airflow itself takes for a deferred task."""

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number

    def execute(self, context: Context) -> None:
        """Defer."""
        until = time.time() + WAIT_SECONDS
        trigger = IdleTrigger(job_name=str(self.number), until=until)
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Return as much as the others do."""
        return {"version": 1, "job_name": str(self.number), "status": "COMPLETED"}


class PageLink(BaseOperatorLink):
    """A link, which Airflow keeps each time that a process of the task ends."""

    name = "Page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return an address."""
        return f"http://localhost/{operator.number}"


class ShapedOperator(IdleOperator):
    """Has what Airflow itself keeps of a task like ours: templated fields and a link."""

    template_fields = ("number",)
    operator_extra_links = (PageLink(),)


with DAG("deferred_idle", schedule=None, max_active_tasks=COUNT):
    IdleOperator.partial(task_id="wait").expand(number=list(range(COUNT)))

with DAG("deferred_shaped", schedule=None, max_active_tasks=COUNT):
    ShapedOperator.partial(task_id="wait").expand(number=list(range(COUNT)))

with DAG("deferred_operator", schedule=None, max_active_tasks=COUNT):
    CreateCompilationJobOperator.partial(
        task_id="wait",
        deferrable=True,
        role_arn="arn:aws:iam::000000000000:role/compiler",
        model_uri="s3://bucket/model.tar.gz",
        framework="ONNX",
        target_device="ml_c5",
        data_input_config={"image": [1, 64]},
    ).expand(output_uri=[f"s3://bucket/out/{number}" for number in range(COUNT)])
