"""Link from the report's task to the page that shows it."""

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

PAGES_PREFIX = "/model-delivery"


class DeliveryReportLink(BaseOperatorLink):
    """Opens the report through Airflow, which checks that the viewer may read the DAG."""

    name = "Delivery report"

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """Return the page's address: it follows from the task instance."""
        from airflow.providers.common.compat.sdk import conf

        base = conf.get("api", "base_url", fallback="").rstrip("/")
        query = urlencode(
            {
                "run_id": ti_key.run_id,
                "task_id": ti_key.task_id,
                "map_index": ti_key.map_index if ti_key.map_index is not None else -1,
            }
        )
        return f"{base}{PAGES_PREFIX}/reports/{ti_key.dag_id}?{query}"
