"""Serves a delivery's report from storage to whoever may read the DAG."""

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from model_delivery.exceptions import StorageError
from model_delivery.hooks.storage import StorageHook

# The report is one file that needs nothing else: whatever got into it, it can run and load nothing.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "sandbox; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}

app = FastAPI(title="Model delivery", docs_url=None, redoc_url=None, openapi_url=None)


@app.get(
    "/reports/{dag_id}",
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.XCOM))],
)
def report(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> HTMLResponse:
    """Return the page that a `DeliveryReportOperator` published."""
    value = _xcom(dag_id, run_id, task_id, map_index)
    if not isinstance(value, dict) or "report_uri" not in value:
        raise HTTPException(404, "this task has published no report; did it succeed?")
    try:
        page = StorageHook().read_bytes(value["report_uri"])
    except StorageError as error:
        raise HTTPException(502, str(error)) from error
    return HTMLResponse(page, headers=HEADERS)


def _xcom(dag_id: str, run_id: str, task_id: str, map_index: int) -> Any:
    query = XComModel.get_many(
        run_id=run_id, key="return_value", dag_ids=dag_id, task_ids=task_id,
        map_indexes=map_index, limit=1,
    )  # fmt: skip
    with create_session() as session:
        found = session.scalars(query).first()
        return XComModel.deserialize_value(found) if found else None
