"""Link from a review's task to the queue that reviewers work on."""

from typing import Any

from model_delivery.links.job import JobLink, console_url, is_aws


class ReviewQueueLink(JobLink):
    """Opens the human review workflow in the AWS console, or the queue in localcloud's portal."""

    name = "Review queue"


def queue_url(hook: Any, flow_definition_arn: str) -> str:
    """Return the address of a flow definition's page; it is pushed when the loops are started."""
    endpoint = str(hook.get_conn().meta.endpoint_url)
    _arn, _aws, _service, region, account, resource = flow_definition_arn.split(":", 5)
    name = resource.rpartition("/")[2]
    if is_aws(endpoint):
        return f"{console_url(endpoint, region, 'a2i')}#/human-review-workflows/{name}"
    return f"{endpoint}/queues/{account}/{region}/{name}"
