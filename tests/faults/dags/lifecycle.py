"""One task a DAG, in every mode, over the compilation service and the nameless one."""

from datetime import timedelta
from itertools import product

from airflow.sdk import DAG
from model_delivery.operators.compilation import CreateCompilationJobOperator
from model_delivery.operators.edge import CreateDeploymentOperator

from tests.nameless.provider import NamelessJobOperator, NamelessJobSensor

RETRIES = 8
PARAMS = {"seconds": 2, "outcome": "SUCCEEDED", "model": "m", "job": "", "target": "ml_c5"}


def dag(dag_id: str) -> DAG:
    arguments = {"retries": RETRIES, "retry_delay": timedelta(seconds=1)}
    return DAG(
        dag_id, schedule=None, params=PARAMS, max_active_runs=32, default_args=arguments,
        is_paused_upon_creation=False, render_template_as_native_obj=True,
    )  # fmt: skip


NAMELESS = {
    "aws_conn_id": "nameless",
    "model": "{{ params.model }}",
    "sources": ["s3://b/one", "s3://b/two"],
    "seconds": "{{ params.seconds }}",
    "outcome": "{{ params.outcome }}",
    "poll_interval": 1.0,
}
COMPILE = {
    "role_arn": "arn:aws:iam::000000000000:role/model-delivery",
    "model_uri": "s3://model-delivery/samples/digits.tar.gz",
    "framework": "ONNX",
    "data_input_config": '{"image": [1, 64]}\n',
    "output_uri": "s3://model-delivery/chaos/{{ params.model }}",
    "target_device": "{{ params.target }}",
    "poll_interval": 1.0,
}

for deferrable, wait in product([False, True], [False, True]):
    mode = ("deferred" if deferrable else "worker") + ("" if wait else "_and_go")
    how = {"task_id": "task", "deferrable": deferrable, "wait_for_completion": wait}
    with dag(f"nameless_{mode}"):
        NamelessJobOperator(**how, **NAMELESS)
    with dag(f"compile_{mode}"):
        CreateCompilationJobOperator(**how, **COMPILE)

with dag("deploy_worker"):
    CreateDeploymentOperator(
        task_id="task", deferrable=False, thing_name="edge-1", components={"faults": "1.0.0"},
        poll_interval=1.0,
    )  # fmt: skip

with dag("nameless_changing"):
    NamelessJobOperator(
        task_id="task", deferrable=False, **{**NAMELESS, "seconds": "{{ 600 + ti.try_number }}"}
    )

# A try after the first fails before any code of the operator runs, as after an edit gone wrong.
with dag("nameless_first_only"):
    NamelessJobOperator(
        task_id="task", deferrable=True, retries=0,
        **{**NAMELESS, "seconds": "{{ 600 if ti.try_number == 1 else missing.variable }}"},
    )  # fmt: skip

for mode, settings in {
    "poke": {"mode": "poke", "deferrable": False},
    "reschedule": {"mode": "reschedule", "deferrable": False},
    "deferred": {"deferrable": True},
}.items():
    with dag(f"sensor_{mode}"):
        NamelessJobSensor(
            task_id="task", aws_conn_id="nameless", job="{{ params.job }}", poke_interval=1,
            timeout=600, retries=0, **settings,
        )  # fmt: skip

for mode, deferrable in {"worker": False, "deferred": True}.items():
    with dag(f"timeout_{mode}"):
        NamelessJobOperator(
            task_id="task", deferrable=deferrable, retries=0,
            execution_timeout=timedelta(seconds=6), **NAMELESS,
        )  # fmt: skip
