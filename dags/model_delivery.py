"""## Model delivery

Takes a trained model to a device, with the evidence that it deserves to run there:
compile, batch inference on held-out data, quality gate, deployment, smoke test, report.

Starts by hand (the form below), over REST with `conf`, when a model archive lands under
`incoming/` of the bucket, and by cron. The Airflow connections decide where it runs.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetWatcher, CronTriggerTimetable, Param
from airflow.timetables.assets import AssetOrTimeSchedule

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
    QualityGateOperator,
)
from model_delivery.operators.report import DeliveryReportOperator
from model_delivery.operators.storage import CopyObjectsOperator
from model_delivery.triggers.storage import NewObjectTrigger
