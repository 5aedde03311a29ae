"""The Airflow plugin, registered by entry point only."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from model_delivery import preload
from model_delivery.links.human_review import ReviewQueueLink
from model_delivery.links.job import JobLink
from model_delivery.links.report import PAGES_PREFIX, DeliveryReportLink


def _apps() -> list[dict[str, Any]]:
    # Every component loads plugins; only the API server has FastAPI's security at hand.
    import sys

    if not any("api-server" in argument or "api_fastapi" in argument for argument in sys.argv):
        return []
    from model_delivery.pages.report import app

    return [{"app": app, "url_prefix": PAGES_PREFIX, "name": "Model delivery"}]


class ModelDeliveryPlugin(AirflowPlugin):
    """Links and pages of the provider, and what its tasks share with the scheduler."""

    name = "model_delivery"
    operator_extra_links = [JobLink(), ReviewQueueLink(), DeliveryReportLink()]  # noqa: RUF012 - Airflow says list
    fastapi_apps = _apps()
    listeners = [preload]  # noqa: RUF012 - Airflow says list
