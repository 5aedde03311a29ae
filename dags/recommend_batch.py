"""Recommend to every user of a data set, and say how good the recommendations are.

Train a matrix factorisation on interactions, holding out each user's newest; register it as a
solution version; have Personalize recommend in one batch inference job; report precision at k and
coverage.

The Airflow connection decides where it runs: localcloud, which takes the trained model, or AWS,
which trains its own: there, give the ARN of a solution version.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG, Param
from model_delivery.conf import END, check_conf
from model_delivery.operators.personalize import (
    CreateBatchInferenceJobOperator,
    RegisterSolutionVersionOperator,
)
from model_delivery.operators.recommender import (
    RecommendationReportOperator,
    TrainRecommenderOperator,
)

BUCKET = os.environ.get("MODEL_DELIVERY_BUCKET", "model-delivery")
ROLE_ARN = os.environ.get(
    "MODEL_DELIVERY_ROLE_ARN", "arn:aws:iam::000000000000:role/model-delivery"
)
CSV = r"^s3://[^{}\s]+\.csv" + END

FOLDER = "{{ params.output_uri.rstrip('/') }}/{{ run_id }}"
TRAINED = "ti.xcom_pull('train_recommender')"

with DAG(
    dag_id="recommend_batch",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    dagrun_timeout=timedelta(hours=12),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["personalize", "batch inference"],
    params={
        "interactions_uri": Param(
            f"s3://{BUCKET}/samples/movielens/interactions.csv",
            type="string",
            pattern=CSV,
            title="Interactions",
            description="CSV of USER_ID, ITEM_ID, EVENT_VALUE, TIMESTAMP.",
        ),
        "items_uri": Param(
            f"s3://{BUCKET}/samples/movielens/items.csv",
            type="string",
            pattern=CSV,
            title="Items",
            description="CSV of ITEM_ID and attributes that a filter may look at.",
        ),
        "solution_version_arn": Param(
            None,
            type=["null", "string"],
            pattern=r"^arn:[a-z\d-]+:personalize:.*:.*:solution/.+" + END,
            title="Solution version",
            description="A trained one, on AWS; empty registers what this run trained.",
        ),
        "filter_arn": Param(
            None,
            type=["null", "string"],
            pattern=r"^arn:[a-z\d-]+:personalize:.*:.*:filter/.+" + END,
            title="Filter",
            description="Leaves items out of the recommendations.",
        ),
        "factors": Param(
            64, type="integer", minimum=1, maximum=1024, title="Factors",
            description="Length of a user's and an item's factor.",
        ),
        "num_results": Param(
            500, type="integer", minimum=1, maximum=500, title="Recommendations a user",
            description="What a user liked before is among them, and is dropped when judged.",
        ),
        "output_uri": Param(
            f"s3://{BUCKET}/recommendations",
            type="string",
            pattern=r"^s3://[^{}\s]+" + END,
            title="Results",
            description="Each run writes below this, under its run id.",
        ),
    },
    render_template_as_native_obj=True,
) as dag:  # fmt: skip
    train = TrainRecommenderOperator(
        task_id="train_recommender",
        pre_execute=check_conf,
        interactions_uri="{{ params.interactions_uri }}",
        output_uri=f"{FOLDER}/model",
        factors="{{ params.factors }}",
    )
    register = RegisterSolutionVersionOperator(
        task_id="solution_version",
        solution_name="recommend-batch",
        recipe="user-personalization",
        bundle_uri=f"{{{{ {TRAINED}['bundle_uri'] }}}}",
        items_uri="{{ params.items_uri }}",
        solution_version_arn="{{ params.solution_version_arn }}",
    )
    recommend = CreateBatchInferenceJobOperator(
        task_id="recommend",
        solution_version_arn="{{ ti.xcom_pull('solution_version')['solution_version_arn'] }}",
        role_arn=ROLE_ARN,
        input_uri=f"{{{{ {TRAINED}['input_uri'] }}}}",
        output_uri=f"{FOLDER}/recommendations/",
        num_results="{{ params.num_results }}",
        filter_arn="{{ params.filter_arn }}",
        deferrable=True,
    )
    report = RecommendationReportOperator(
        task_id="report",
        trained=train.output,
        job=recommend.output,
        output_uri=f"{FOLDER}/report.html",
    )

    train >> register >> recommend >> report
