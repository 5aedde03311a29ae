"""Take a trained model to a device, with the evidence that it deserves to run there.

Compile, bundle, batch inference on held-out data, quality gate, deployment, smoke test, report.

Starts by hand (the trigger form), over REST with `conf`, by cron, and, through `incoming_models`,
for each model archive that lands in the bucket. The Airflow connections decide where it runs:
localcloud or AWS.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param
from model_delivery.conf import ARCHIVE_URI, END, SHAPES_TEXT, URI, check_conf, shapes_json
from model_delivery.operators.bundle import BundleModelOperator
from model_delivery.operators.compilation import CreateCompilationJobOperator
from model_delivery.operators.edge import (
    CreateComponentVersionOperator,
    CreateDeploymentOperator,
    EdgeInferenceOperator,
)
from model_delivery.operators.inference import (
    BatchInferenceOperator,
    MergeResultsOperator,
    PlanShardsOperator,
)
from model_delivery.operators.quality_gate import QualityGateOperator
from model_delivery.operators.report import DeliveryReportOperator
from model_delivery.operators.storage import CopyObjectsOperator

BUCKET = os.environ.get("MODEL_DELIVERY_BUCKET", "model-delivery")
CRON = os.environ.get("MODEL_DELIVERY_CRON", "0 3 * * 1")
ROLE_ARN = os.environ.get(
    "MODEL_DELIVERY_ROLE_ARN", "arn:aws:iam::000000000000:role/model-delivery"
)

DELIVERY = "{{ params.output_uri.rstrip('/') }}/{{ run_id }}"
MODEL = f"{DELIVERY}/model/model.tar.gz"
INPUT = f"{DELIVERY}/input/input.jsonl"

compiled_models = Asset(name="compiled_models", uri=f"s3://{BUCKET}/deliveries/compiled")
deployed_models = Asset(name="deployed_models", uri=f"s3://{BUCKET}/deliveries/deployed")

with DAG(
    dag_id="model_delivery",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(CRON, timezone="UTC"),
    catchup=False,
    # A later deployment to a device cancels one under way. Raise it for deliveries to many devices.
    max_active_runs=1,
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
            description="Trained model as .tar.gz with one model, in S3, Azure Blob or a file.",
        ),
        "input_uri": Param(
            f"s3://{BUCKET}/samples/held_out.jsonl",
            type="string",
            pattern=URI + r"\.jsonl" + END,
            title="Held-out data",
            description="JSON Lines: one record a line, the model's inputs by name, and the label.",
        ),
        "data_input_config": Param(
            {"image": [-1, 64]},
            type=["object", "array", "string"],
            minProperties=1,
            minItems=1,
            pattern=SHAPES_TEXT,
            additionalProperties={
                "type": "array",
                "minItems": 1,
                "items": {"type": "integer", "minimum": -1, "not": {"const": 0}},
            },
            title="Input shapes",
            description="Shape of each model input by name; -1 leaves the batch dimension open. "
            "Several inputs of a PyTorch model as text or as a list, which keep their order.",
        ),
        "framework": Param(
            "ONNX",
            type="string",
            enum=["ONNX", "PYTORCH", "TENSORFLOW", "KERAS", "TFLITE", "XGBOOST", "SKLEARN"],
            title="Framework",
        ),
        "compiler_options": Param(
            {},
            type="object",
            title="Compiler options",
            description='For example {"precision": "int8"}; unknown ones are refused.',
        ),
        "target_device": Param(
            "ml_c5",
            type="string",
            enum=["ml_c4", "ml_c5", "ml_m4", "ml_m5", "rasp4b"],
            title="Target",
            description="Device family to compile for, by SageMaker's names.",
        ),
        "thing_name": Param(
            "edge-1",
            type="string",
            pattern=r"^[a-zA-Z0-9:_-]{1,128}" + END,
            title="Device",
            description="Name of the core device that gets the model.",
        ),
        "edge_conn_id": Param(
            "model_delivery_edge_default",
            type="string",
            pattern=r"^[a-zA-Z0-9_.-]{1,200}" + END,
            title="Device connection",
            description="Airflow connection to that device's own API, for the smoke test.",
        ),
        "component_name": Param(
            "digits",
            type="string",
            pattern=r"^[a-zA-Z0-9][a-zA-Z0-9-_.]{0,127}" + END,
            title="Component",
            description="Name of the component, and of the model on the device.",
        ),
        "label_field": Param("label", type="string", minLength=1, title="Label field"),
        "score_output": Param(
            "probabilities",
            type="string",
            minLength=1,
            title="Score output",
            description="Model output with one score a class; the highest is the answer.",
        ),
        "min_accuracy": Param(
            0.9,
            type="number",
            minimum=0,
            maximum=1,
            title="Least accuracy",
            description="The gate holds the lower end of the 95 % interval against this.",
        ),
        "max_error_fraction": Param(
            0.01, type="number", minimum=0, maximum=1, title="Most failed records (fraction)"
        ),
        "shards": Param(
            2, type="integer", minimum=1, maximum=256, title="Shards", description="Parallel tasks."
        ),
        "output_uri": Param(
            f"s3://{BUCKET}/deliveries",
            type="string",
            pattern=r"^s3://[^{}\s]+" + END,
            title="Deliveries",
            description="Each run writes below this, under its run id.",
        ),
    },
    render_template_as_native_obj=False,
) as dag:
    stage = CopyObjectsOperator(
        task_id="stage_inputs",
        pre_execute=check_conf,
        copies=[("{{ params.model_uri }}", MODEL), ("{{ params.input_uri }}", INPUT)],
    )
    compile_model = CreateCompilationJobOperator(
        task_id="compile",
        role_arn=ROLE_ARN,
        model_uri=MODEL,
        framework="{{ params.framework }}",
        data_input_config="{{ params.data_input_config | shapes_json }}",
        output_uri=f"{DELIVERY}/compiled",
        target_device="{{ params.target_device }}",
        compiler_options="{{ params.compiler_options | tojson }}",
        deferrable=True,
        outlets=[compiled_models],
    )
    bundle = BundleModelOperator(
        task_id="bundle",
        model_uri=MODEL,
        artifact_uri="{{ ti.xcom_pull('compile')['output_uri'] }}",
        output_uri=f"{DELIVERY}/bundle/bundle.tar.gz",
        framework="{{ params.framework }}",
        data_input_config="{{ params.data_input_config | shapes_json }}",
        target_device="{{ params.target_device }}",
        compiler_options="{{ params.compiler_options | tojson }}",
    )
    bundle_uri = "{{ ti.xcom_pull('bundle')['output_uri'] }}"
    plan = PlanShardsOperator(task_id="plan_shards", input_uri=INPUT, shards="{{ params.shards }}")
    infer = BatchInferenceOperator.partial(
        task_id="batch_inference",
        bundle_uri=bundle_uri,
        output_uri=f"{DELIVERY}/results",
    ).expand(shard=plan.output)
    merge = MergeResultsOperator(
        task_id="merge_results", parts=infer.output, output_uri=f"{DELIVERY}/results"
    )
    gate = QualityGateOperator(
        task_id="quality_gate",
        results_uri="{{ ti.xcom_pull('merge_results')['output_uri'] }}",
        label_field="{{ params.label_field }}",
        score_output="{{ params.score_output }}",
        min_accuracy="{{ params.min_accuracy }}",
        max_error_fraction="{{ params.max_error_fraction }}",
    )
    component = CreateComponentVersionOperator(
        task_id="component_version",
        bundle_uri=bundle_uri,
        component_name="{{ params.component_name }}",
    )
    deploy = CreateDeploymentOperator(
        task_id="deploy",
        thing_name="{{ params.thing_name }}",
        component_versions=[component.output],
        deferrable=True,
        outlets=[deployed_models],
    )
    smoke = EdgeInferenceOperator(
        task_id="smoke_test",
        model_name="{{ params.component_name }}",
        digest="{{ ti.xcom_pull('component_version')['digest'] }}",
        input_uri=INPUT,
        results_uri="{{ ti.xcom_pull('merge_results')['output_uri'] }}",
        thing_name="{{ params.thing_name }}",
        edge_conn_id="{{ params.edge_conn_id }}",
    )
    report = DeliveryReportOperator(
        task_id="report",
        output_uri=f"{DELIVERY}/report.html",
        bundle_uri=bundle_uri,
        merged=merge.output,
        verdict=gate.output,
        deployment=deploy.output,
        smoke_test=smoke.output,
    )

    stage >> [compile_model, plan]
    compile_model >> bundle
    [bundle, plan] >> infer
    infer >> merge >> gate >> component >> deploy >> smoke >> report
