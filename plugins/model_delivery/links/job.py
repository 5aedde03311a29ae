"""Link from a task to the page of the job it submitted."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.bases.xcom import BaseXCom as XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

JOB_LINK_KEY = "job_link"


class JobLink(BaseOperatorLink):
    """Opens the job in the AWS console, or in localcloud when the endpoint is not AWS's."""

    name = "Job page"

    @property
    def xcom_key(self) -> str:
        """Where the address is kept: Airflow pushes it when the task defers or ends."""
        return JOB_LINK_KEY

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """Return the address that the task knows or pushed, or nothing before it did."""
        if page := getattr(operator, "page", None):
            return str(page)
        key: Any = ti_key  # a frozen key where the signature asks for a mutable one
        value = XCom.get_value(key=JOB_LINK_KEY, ti_key=key)
        return str(value or "")


def is_aws(endpoint_url: str) -> bool:
    """Tell whether an endpoint is AWS's own."""
    host = urlsplit(endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def console_url(endpoint_url: str, region: str, service: str) -> str:
    """Return the console's page of a service: each partition of AWS has a console of its own."""
    domain = "console.aws.amazon.com"
    if (urlsplit(endpoint_url).hostname or "").endswith(".cn"):
        domain = "console.amazonaws.cn"
    elif region.startswith("us-gov-"):
        domain = "console.amazonaws-us-gov.com"
    return f"https://{region}.{domain}/{service}/home?region={region}"
