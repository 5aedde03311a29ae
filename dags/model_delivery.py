"""Take a trained model to a device, with the evidence that it deserves to run there.

Compile, bundle, batch inference on held-out data, review by people of what the model is unsure of,
quality gate, approval if wanted, deployment, smoke test, report.

Starts by hand (the trigger form), over REST with `conf`, by cron, and, through `incoming_models`,
for each model archive that lands in the bucket. The Airflow connections decide where it runs:
localcloud or AWS.
"""

import os
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param
from model_delivery.conf import (
    ARCHIVE_URI,
    END,
    SHAPES_TEXT,
    URI,
    check_conf,
    only_if_approval_is_asked,
    shapes_json,
)
from model_delivery.operators.bundle import BundleModelOperator
from model_delivery.operators.compilation import CreateCompilationJobOperator
from model_delivery.operators.edge import (
    CreateComponentVersionOperator,
    CreateDeploymentOperator,
    EdgeInferenceOperator,
)
from model_delivery.operators.flow_definitions import CreateFlowDefinitionOperator
from model_delivery.operators.human_review import HumanReviewOperator
from model_delivery.operators.human_task_uis import CreateHumanTaskUiOperator
from model_delivery.operators.inference import (
    BatchInferenceOperator,
    MergeResultsOperator,
    PlanShardsOperator,
)
from model_delivery.operators.quality_gate import QualityGateOperator
from model_delivery.operators.report import DeliveryReportOperator
from model_delivery.operators.storage import CopyObjectsOperator
from model_delivery.task_templates import CLASSIFY_IMAGE

BUCKET = os.environ.get("MODEL_DELIVERY_BUCKET", "model-delivery")
CRON = os.environ.get("MODEL_DELIVERY_CRON", "0 3 * * 1")
ROLE_ARN = os.environ.get(
    "MODEL_DELIVERY_ROLE_ARN", "arn:aws:iam::000000000000:role/model-delivery"
)
WORKTEAM_ARN = os.environ.get(
    "MODEL_DELIVERY_WORKTEAM_ARN",
    "arn:aws:sagemaker:us-east-1:000000000000:workteam/private-crowd/reviewers",
)

DELIVERY = "{{ params.output_uri.rstrip('/') }}/{{ run_id }}"
MODEL = f"{DELIVERY}/model/model.tar.gz"
INPUT = f"{DELIVERY}/input/input.jsonl"

APPROVAL_BODY = """\
{%- set gate, review = ti.xcom_pull('quality_gate'), ti.xcom_pull('human_review') -%}
| | |
|---|---|
| accuracy on {{ gate.records }} records | {{ '%.4f' % gate.accuracy }}, 95 % interval \
{{ '%.4f' % gate.interval_low }} to {{ '%.4f' % gate.interval_high }} |
| asked for | at least {{ gate.min_accuracy }} |
| reviewed by people | {{ review.confirmed }} confirmed, {{ review.corrected }} corrected, \
{{ review.undecided }} undecided |
| agreement of reviewers | {{ '%.4f' % review.agreement }} |
| not reviewed | {{ review.unreviewed }}, of which at most \
{{ '%.2f' % (100 * review.unreviewed_errors_interval[1]) }} % are wrong |
| model | {{ ti.xcom_pull('bundle')['digest'] }} |
| all figures | {{ review.report_uri }} |
"""

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
        "labels": Param(
            list("0123456789"),
            type="array",
            minItems=2,
            items={"type": "string", "minLength": 1},
            title="Classes",
            description="What reviewers choose from, in the order of the scores.",
        ),
        "review_conditions": Param(
            {
                "Conditions": [
                    {
                        "ConditionType": "ConfidenceCheck",
                        "ConditionParameters": {"ConfidenceLessThan": 80},
                    },
                    {
                        "ConditionType": "Sampling",
                        "ConditionParameters": {"RandomSamplingPercentage": 10},
                    },
                ]
            },
            type="object",
            required=["Conditions"],
            title="Review",
            description="Which answers people review; the random sample tells of all others.",
        ),
        "workteam_arn": Param(
            WORKTEAM_ARN,
            type="string",
            pattern=r"^arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:workteam/.+" + END,
            title="Reviewers",
            description="Work team; two of its members review each item.",
        ),
        "picture_field": Param(
            "picture",
            type="string",
            title="Picture field",
            description="Field of the data with the URI of what reviewers look at.",
        ),
        "max_unreviewed_error": Param(
            0.15,
            type="number",
            minimum=0,
            maximum=1,
            title="Most errors unseen",
            description="The gate holds the upper end of their 95 % interval against this.",
        ),
        "approval": Param(
            False,
            type="boolean",
            title="Ask before the deployment",
            description="Somebody approves in Airflow what the gate let pass.",
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
        artifact_digest="{{ ti.xcom_pull('compile')['digest'] }}",
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
        max_active_tis_per_dag=1,  # as many as there are workers: a task uses all cores of one
        bundle_uri=bundle_uri,
        output_uri=f"{DELIVERY}/results",
    ).expand(shard=plan.output)
    merge = MergeResultsOperator(
        task_id="merge_results", parts=infer.output, output_uri=f"{DELIVERY}/results"
    )
    task_ui = CreateHumanTaskUiOperator(
        task_id="task_ui",
        human_task_ui_name=CLASSIFY_IMAGE.name,
        content=CLASSIFY_IMAGE.content,
    )
    flow = CreateFlowDefinitionOperator(
        task_id="flow_definition",
        flow_definition_name="model-delivery-{{ params.workteam_arn.rpartition('/')[2] | lower }}",
        role_arn=ROLE_ARN,
        workteam_arn="{{ params.workteam_arn }}",
        human_task_ui_arn="{{ ti.xcom_pull('task_ui')['human_task_ui_arn'] }}",
        task_title="Check the model's answer",
        task_description="Say what the picture shows. The model's answer is chosen already.",
        output_uri=f"s3://{BUCKET}/reviews",
        task_count=2,
    )
    review = HumanReviewOperator(
        task_id="human_review",
        results_uri="{{ ti.xcom_pull('merge_results')['output_uri'] }}",
        output_uri=f"{DELIVERY}/review",
        flow_definition_arn="{{ ti.xcom_pull('flow_definition')['flow_definition_arn'] }}",
        conditions="{{ params.review_conditions | tojson }}",
        score_output="{{ params.score_output }}",
        labels="{{ params.labels | tojson }}",
        hidden_fields=["{{ params.label_field }}"],
        task_object_field="{{ params.picture_field }}",
        poll_interval=2,
        deferrable=True,
    )
    gate = QualityGateOperator(
        task_id="quality_gate",
        results_uri="{{ ti.xcom_pull('human_review')['output_uri'] }}",
        review=review.output,
        max_unreviewed_error="{{ params.max_unreviewed_error }}",
        label_field="{{ params.label_field }}",
        labels="{{ params.labels | tojson }}",
        score_output="{{ params.score_output }}",
        min_accuracy="{{ params.min_accuracy }}",
        max_error_fraction="{{ params.max_error_fraction }}",
    )
    approve = ApprovalOperator(
        task_id="approve",
        pre_execute=only_if_approval_is_asked,
        subject="Deploy {{ params.component_name }} to {{ params.thing_name }}?",
        body=APPROVAL_BODY,
        ignore_downstream_trigger_rules=True,
    )
    component = CreateComponentVersionOperator(
        task_id="component_version",
        # An approval that nobody asked for is skipped.
        trigger_rule="none_failed",
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
        review=review.output,
        verdict=gate.output,
        deployment=deploy.output,
        smoke_test=smoke.output,
    )

    stage >> [compile_model, plan, task_ui]
    task_ui >> flow
    compile_model >> bundle
    [bundle, plan] >> infer
    infer >> merge
    [merge, flow] >> review >> gate >> approve >> component >> deploy >> smoke >> report
