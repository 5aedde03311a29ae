"""Roll a compiled model out to a fleet of devices, in stages that stop by themselves.

The bundle becomes a component version; a few devices get it first, then a tenth, then all. Where
too many devices of a stage refuse it, or give it up while the stage is watched, every device gets
back what it had. The rollout's page has its stages and devices, and buttons to pause, resume,
approve and roll back.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, Param
from model_delivery.conf import END, check_conf
from model_delivery.operators.edge import CreateComponentVersionOperator
from model_delivery.operators.edge_rollout import EdgeRolloutOperator

BUCKET = os.environ.get("MODEL_DELIVERY_BUCKET", "model-delivery")
STAGES = [
    {"name": "canary", "percent": 1, "soak_seconds": 60},
    {"name": "tenth", "percent": 10, "soak_seconds": 60},
    {"name": "all", "percent": 100},
]

with DAG(
    dag_id="edge_rollout",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    # A later rollout to a device replaces one under way. Raise it where fleets do not overlap.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["edge"],
    params={
        "bundle_uri": Param(
            f"s3://{BUCKET}/bundles/model.tar.gz",
            type="string",
            pattern=r"^s3://[^{}\s]+\.tar\.gz" + END,
            title="Bundle",
            description="What the compilation left.",
        ),
        "component_name": Param(
            "digits",
            type="string",
            pattern=r"^[a-zA-Z0-9_.-]{1,128}" + END,
            title="Component",
            description="Devices serve the model under this name.",
        ),
        "thing_group_name": Param(
            "edge-fleet",
            type="string",
            pattern=r"^[a-zA-Z0-9:_-]{1,128}" + END,
            title="Fleet",
            description="Devices of this thing group and of those below it.",
        ),
        "stages": Param(
            STAGES,
            type="array",
            items={"type": "object"},
            minItems=1,
            maxItems=20,
            title="Stages",
            description="Each with one of devices, tags and percent; soak_seconds; approval.",
        ),
        "success_threshold": Param(
            1.0, type="number", minimum=0, maximum=1, title="Success threshold",
            description="Share of a stage's devices that have to succeed.",
        ),
        "error_threshold": Param(
            0.0, type="number", minimum=0, maximum=1, title="Error threshold",
            description="Share of a stage's devices that may fail, of those that are done.",
        ),
        "minimum_sample": Param(
            1, type="integer", minimum=1, title="Minimum sample",
            description="So many devices have to be done before that share counts.",
        ),
        "budget_percent": Param(
            100, type="number", exclusiveMinimum=0, maximum=100, title="Disruption budget",
            description="Percentage of the fleet that may be unavailable at a time.",
        ),
        "on_failure": Param(
            "ROLLBACK", type="string", enum=["PAUSE", "ABORT", "ROLLBACK"], title="On failure",
            description="PAUSE waits for a person; ABORT leaves devices as they are by then.",
        ),
    },
    render_template_as_native_obj=True,
) as dag:  # fmt: skip
    component = CreateComponentVersionOperator(
        task_id="component_version",
        pre_execute=check_conf,
        component_name="{{ params.component_name }}",
        bundle_uri="{{ params.bundle_uri }}",
    )
    rollout = EdgeRolloutOperator(
        task_id="rollout",
        component=component.output,
        thing_group_name="{{ params.thing_group_name }}",
        stages="{{ params.stages }}",
        success_threshold="{{ params.success_threshold }}",
        error_threshold="{{ params.error_threshold }}",
        minimum_sample="{{ params.minimum_sample }}",
        budget_percent="{{ params.budget_percent }}",
        on_failure="{{ params.on_failure }}",
        outlets=[Asset(name="rolled_out_models", uri=f"s3://{BUCKET}/deliveries/rolled-out")],
        deferrable=True,
    )
