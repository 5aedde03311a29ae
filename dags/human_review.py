"""Read forms, have people correct what the model is unsure of, and write the corrected forms.

An OCR model reads images of documents into blocks as Textract's AnalyzeDocument gives them;
activation conditions choose the documents that people look at; the corrected forms say which texts
people changed. The Airflow connection decides whose reviewers: localcloud's portal or Augmented AI.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG, Param
from model_delivery.a2i import TEXTRACT
from model_delivery.conf import END, check_conf
from model_delivery.operators.documents import ReadDocumentsOperator, WriteFormsOperator
from model_delivery.operators.flow_definitions import CreateFlowDefinitionOperator
from model_delivery.operators.human_review import HumanReviewOperator
from model_delivery.operators.human_task_uis import CreateHumanTaskUiOperator
from model_delivery.task_templates import CORRECT_FORM

BUCKET = os.environ.get("MODEL_DELIVERY_BUCKET", "model-delivery")
ROLE_ARN = os.environ.get(
    "MODEL_DELIVERY_ROLE_ARN", "arn:aws:iam::000000000000:role/model-delivery"
)
WORKTEAM_ARN = os.environ.get(
    "MODEL_DELIVERY_WORKTEAM_ARN",
    "arn:aws:sagemaker:us-east-1:000000000000:workteam/private-crowd/reviewers",
)
FOLDER = "{{ params.output_uri.rstrip('/') }}/{{ run_id }}"

with DAG(
    dag_id="human_review",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    dagrun_timeout=timedelta(days=14),
    default_args={"retries": 1, "retry_delay": timedelta(seconds=10)},
    tags=["augmented ai", "human review"],
    params={
        "documents_uri": Param(
            f"s3://{BUCKET}/samples/forms/",
            type="string",
            pattern=r"^s3://[^{}\s]+" + END,
            title="Documents",
            description="Prefix of the images, PNG or JPEG.",
        ),
        "review_conditions": Param(
            {
                "Conditions": [
                    {
                        "ConditionType": "ImportantFormKeyConfidenceCheck",
                        "ConditionParameters": {
                            "ImportantFormKey": "*",
                            "KeyValueBlockConfidenceLessThan": 97,
                        },
                    },
                    {
                        "ConditionType": "MissingImportantFormKey",
                        "ConditionParameters": {
                            "ImportantFormKey": "Mail address",
                            "ImportantFormKeyAliases": ["Mailaddress", "Mail Address"],
                        },
                    },
                    {
                        "ConditionType": "Sampling",
                        "ConditionParameters": {"RandomSamplingPercentage": 20},
                    },
                ]
            },
            type="object",
            required=["Conditions"],
            title="Conditions",
            description="Human loop activation conditions, as Textract takes them.",
        ),
        "workteam_arn": Param(
            WORKTEAM_ARN,
            type="string",
            pattern=r"^arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:workteam/.+" + END,
            title="Reviewers",
            description="Work team; two of its members correct each form.",
        ),
        "output_uri": Param(
            f"s3://{BUCKET}/forms",
            type="string",
            pattern=r"^s3://[^{}\s]+" + END,
            title="Results",
            description="Each run writes below this, under its run id.",
        ),
    },
    render_template_as_native_obj=False,
) as dag:
    read = ReadDocumentsOperator(
        task_id="read_documents",
        pre_execute=check_conf,
        documents_uri="{{ params.documents_uri }}",
        results_uri=f"{FOLDER}/results.jsonl",
    )
    task_ui = CreateHumanTaskUiOperator(
        task_id="task_ui",
        human_task_ui_name=CORRECT_FORM.name,
        content=CORRECT_FORM.content,
    )
    flow = CreateFlowDefinitionOperator(
        task_id="flow_definition",
        flow_definition_name="forms-{{ params.workteam_arn.rpartition('/')[2] | lower }}",
        role_arn=ROLE_ARN,
        workteam_arn="{{ params.workteam_arn }}",
        human_task_ui_arn="{{ ti.xcom_pull('task_ui')['human_task_ui_arn'] }}",
        task_title="Correct the form",
        task_description="Correct each value to what stands in the document.",
        output_uri=f"s3://{BUCKET}/reviews",
        task_count=2,
    )
    review = HumanReviewOperator(
        task_id="human_review",
        results_uri="{{ ti.xcom_pull('read_documents')['output_uri'] }}",
        output_uri=f"{FOLDER}/review",
        flow_definition_arn="{{ ti.xcom_pull('flow_definition')['flow_definition_arn'] }}",
        conditions="{{ params.review_conditions | tojson }}",
        source=TEXTRACT,
        task_object_field="document",
        poll_interval=2,
        deferrable=True,
    )
    forms = WriteFormsOperator(
        task_id="write_forms",
        reviewed_uri="{{ ti.xcom_pull('human_review')['output_uri'] }}",
        output_uri=f"{FOLDER}/forms.jsonl",
    )

    task_ui >> flow
    [read, flow] >> review >> forms
