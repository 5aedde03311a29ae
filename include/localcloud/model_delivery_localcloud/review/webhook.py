"""The completion webhook: each end of a human loop, posted as EventBridge would deliver it.

Source of the layout: "Use Amazon CloudWatch Events in Amazon Augmented AI" of the SageMaker
developer guide. `X-Localcloud-Signature` is `sha256=` and the HMAC of the body under the webhook's
secret, in hex. An event comes at least once; `id` tells a repetition.
"""

import hashlib
import hmac
import http.client
import json
import logging
import urllib.request
from typing import Any

from model_delivery_localcloud.clock import to_datetime
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.human_loops import arn_of_flow, arn_of_loop
from model_delivery_localcloud.store.review_tables import HumanLoop, WebhookEvent

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
SIGNATURE = "X-Localcloud-Signature"


class Webhook:
    """Posts events to one URL."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._secret = secret.encode()

    @classmethod
    def of(cls, settings: Settings) -> "Webhook | None":
        """Return the webhook of the settings, or None."""
        if settings.webhook_url is None or settings.webhook_secret is None:
            return None
        return cls(settings.webhook_url, settings.webhook_secret)

    def post(self, event: WebhookEvent, loop: HumanLoop) -> bool:
        """Post an event; tell whether the receiver took it (any 2xx)."""
        body = json.dumps(event_document(event, loop)).encode()
        signature = hmac.digest(self._secret, body, hashlib.sha256).hex()
        headers = {"Content-Type": "application/json", SIGNATURE: f"sha256={signature}"}
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with _opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return 200 <= int(answer.status) < 300
        except (OSError, http.client.HTTPException) as error:
            log.warning("webhook for human loop %s: %s; trying again", loop.name, error)
            return False


def event_document(event: WebhookEvent, loop: HumanLoop) -> dict[str, Any]:
    """Return the event as EventBridge lays it out."""
    return {
        "version": "0",
        "id": event.id,
        "detail-type": "SageMaker A2I HumanLoop Status Change",
        "source": "aws.sagemaker",
        "account": loop.account,
        "time": _moment(event.created_at),
        "region": loop.region,
        "resources": [arn_of_loop(loop)],
        "detail": {
            "creationTime": _moment(loop.created_at),
            "failureCode": loop.failure_code or None,
            "failureReason": loop.failure_reason or None,
            "flowDefinitionArn": arn_of_flow(loop),
            "humanLoopArn": arn_of_loop(loop),
            "humanLoopName": loop.name,
            "humanLoopOutput": {"outputS3Uri": loop.output_uri} if loop.output_uri else None,
            "humanLoopStatus": event.body["status"],
        },
    }


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Events go where the settings say and nowhere else."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


def _moment(milliseconds: int) -> str:
    return to_datetime(milliseconds).strftime("%Y-%m-%dT%H:%M:%SZ")
