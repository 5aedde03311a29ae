"""Start one delivery for each model archive that lands under `incoming/` of the bucket.

Airflow gathers the events of an asset into one run, and leaves out those that came while the run
was queued. So this DAG looks at all events since its last run, hourly too, and gives each upload a
`model_delivery` run whose id is the upload's: none is lost and none is delivered twice. Those runs
go one after the other, in the order of upload.

What lies there when the watch begins, up to a minute after this DAG is switched on, is left alone.
"""

import hashlib
import logging
import os
import re
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronTriggerTimetable,
    task,
)
from model_delivery.conf import ARCHIVE_URI
from model_delivery.triggers.storage import NewObjectTrigger

log = logging.getLogger(__name__)

BUCKET = os.environ.get("MODEL_DELIVERY_BUCKET", "model-delivery")
# An event may be written shortly after the start of the run that did not see it.
OVERLAP = timedelta(minutes=10)

incoming_models = Asset(
    name="incoming_models",
    uri=f"s3://{BUCKET}/incoming",
    watchers=[
        AssetWatcher(
            name="model_archives",
            trigger=NewObjectTrigger(uri=f"s3://{BUCKET}/incoming/", suffix=".tar.gz"),
        )
    ],
)

with DAG(
    dag_id="incoming_models",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("17 * * * *", timezone="UTC"), assets=[incoming_models]
    ),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["model-delivery"],
):

    @task(inlets=[incoming_models])
    def archives(
        inlet_events: Any = None, prev_start_date_success: Any = None
    ) -> list[dict[str, Any]]:
        """Return a run id and a `conf` for each upload since the last run."""
        events = inlet_events[incoming_models]
        if prev_start_date_success:
            events = events.after((prev_start_date_success - OVERLAP).isoformat())
        uploads = [upload for event in events for upload in event.extra["payload"]["uploads"]]
        runs = {}
        for upload in sorted(uploads, key=lambda upload: upload["modified"]):
            if not re.search(ARCHIVE_URI, upload["uri"]):
                log.error("Left out: the name of %r has {, } or a control character", upload["uri"])
                continue
            identity = hashlib.sha256(f"{upload['uri']}\x1f{upload['modified']}".encode())
            runs[f"incoming__{identity.hexdigest()[:16]}"] = {"model_uri": upload["uri"]}
        return [{"trigger_run_id": run_id, "conf": conf} for run_id, conf in runs.items()]

    TriggerDagRunOperator.partial(
        task_id="deliver",
        trigger_dag_id="model_delivery",
        skip_when_already_exists=True,
        max_active_tis_per_dagrun=1,
    ).expand_kwargs(archives())
