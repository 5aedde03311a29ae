"""Compile one model for a list of devices, and compare what came of each.

A target that cannot be compiled for fails its own tasks and stands in the report with the reason;
the others go on. Starts by hand or over REST.
"""

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task, task_group
from model_delivery.conf import ARCHIVE_URI, END, SHAPES_TEXT, check_conf, shapes_json
from model_delivery.operators.bundle import BundleModelOperator
from model_delivery.operators.compilation import CreateCompilationJobOperator
from model_delivery.operators.report import CompareCompilationsOperator
from model_delivery.operators.storage import CopyObjectsOperator

BUCKET = os.environ.get("MODEL_DELIVERY_BUCKET", "model-delivery")
ROLE_ARN = os.environ.get(
    "MODEL_DELIVERY_ROLE_ARN", "arn:aws:iam::000000000000:role/model-delivery"
)
RUN = "{{ params.output_uri.rstrip('/') }}/{{ run_id }}"
MODEL = f"{RUN}/model/model.tar.gz"
CONFIG = "{{ params.data_input_config | shapes_json }}"
OPTIONS = "{{ params.compiler_options | tojson }}"
COMPILED = "ti.xcom_pull('each_target.compile', map_indexes=ti.map_index)"

with DAG(
    dag_id="compile_model",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=2,
    dagrun_timeout=timedelta(hours=6),
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    tags=["model-delivery"],
    user_defined_filters={"shapes_json": shapes_json},
    params={
        "model_uri": Param(
            f"s3://{BUCKET}/samples/digits.tar.gz",
            type="string",
            pattern=ARCHIVE_URI,
            title="Model archive",
            description="Trained model as .tar.gz, in S3, Azure Blob or a file.",
        ),
        "framework": Param(
            "ONNX",
            type="string",
            enum=["ONNX", "PYTORCH", "TENSORFLOW", "KERAS", "TFLITE", "XGBOOST", "SKLEARN"],
            title="Framework",
        ),
        "data_input_config": Param(
            {"image": [-1, 64]},
            type=["object", "array", "string", "null"],
            pattern=SHAPES_TEXT,
            title="Input shapes",
            description="Shape of each input by name; none for XGBoost. Several inputs of a "
            "PyTorch model as text or as a list, which keep their order.",
        ),
        "target_devices": Param(
            ["ml_c5", "rasp4b"],
            type="array",
            minItems=1,
            maxItems=37,
            uniqueItems=True,
            items={"type": "string", "pattern": "^[a-z0-9_]{2,32}" + END},
            title="Targets",
            description="Devices to compile for, by SageMaker's names.",
        ),
        "compiler_options": Param(
            {},
            type="object",
            title="Compiler options",
            description='For example {"precision": "int8"}, or with AWS what Neo takes.',
        ),
        "output_uri": Param(
            f"s3://{BUCKET}/compilations",
            type="string",
            pattern=r"^s3://[^{}\s]+" + END,
            title="Results",
            description="Each run writes below this, under its run id.",
        ),
    },
) as dag:
    stage = CopyObjectsOperator(
        task_id="stage_model",
        pre_execute=check_conf,
        copies=[("{{ params.model_uri }}", MODEL)],
    )

    @task
    def targets(params: Any = None) -> list[str]:
        """Return the devices, to map over."""
        return list(params["target_devices"])

    @task_group
    def each_target(target_device: str) -> None:
        """Compile for one device, and see to it that there is a bundle."""
        compiled = CreateCompilationJobOperator(
            task_id="compile",
            role_arn=ROLE_ARN,
            model_uri=MODEL,
            framework="{{ params.framework }}",
            data_input_config=CONFIG,
            output_uri=f"{RUN}/compiled",
            target_device=target_device,
            compiler_options=OPTIONS,
            deferrable=True,
        )
        bundled = BundleModelOperator(
            task_id="bundle",
            model_uri=MODEL,
            artifact_uri=f"{{{{ {COMPILED}['output_uri'] }}}}",
            artifact_digest=f"{{{{ {COMPILED}['digest'] }}}}",
            output_uri=f"{RUN}/bundles/{{{{ ti.map_index }}}}.tar.gz",
            framework="{{ params.framework }}",
            data_input_config=CONFIG,
            target_device=target_device,
            compiler_options=OPTIONS,
        )
        compiled >> bundled

    devices = targets()
    report = CompareCompilationsOperator(
        task_id="report",
        targets=devices,
        compile_task_id="each_target.compile",
        bundle_task_id="each_target.bundle",
        model_uri="{{ params.model_uri }}",
        output_uri=f"{RUN}/report.html",
        trigger_rule="all_done",
    )
    stage >> devices
    each_target.expand(target_device=devices) >> report
