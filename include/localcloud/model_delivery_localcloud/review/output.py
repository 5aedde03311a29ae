"""The output object of a human loop, exactly as Augmented AI lays it out.

Source: "Amazon A2I Output Data" of the SageMaker developer guide.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_delivery_localcloud.clock import to_datetime
from model_delivery_localcloud.store.human_loops import arn_of_flow
from model_delivery_localcloud.store.review_tables import Assignment, FlowDefinition, HumanLoop

SOURCE = "awsManagedHumanLoopRequestSource"


@dataclass(frozen=True)
class Reviewer:
    """How an output names a reviewer: an id that never changes, and the name they sign in with."""

    worker_id: str
    name: str


def output_uri(flow: FlowDefinition, loop: HumanLoop) -> str:
    """Return where a loop's output goes; the same each time, so that a retry overwrites itself."""
    prefix = flow.request["OutputConfig"]["S3OutputPath"].rstrip("/")
    moment = to_datetime(loop.created_at).strftime("%Y/%m/%d/%H/%M/%S")
    return f"{prefix}/{loop.flow_name}/{moment}/{loop.name}/output.json"


def output_document(
    flow: FlowDefinition,
    loop: HumanLoop,
    content: str,
    answers: Sequence[Assignment],
    reviewers: Mapping[str, Reviewer],
    issuer: str,
) -> bytes:
    """Return the object: the input as it came and each answer raw, in the order they came.

    `content` is the InputContent's JSON text, which is not read again: it is put in as it is.
    `issuer`: the URL under which reviewers sign in.
    """
    source = flow.request.get("HumanLoopRequestSource", {}).get("AwsManagedHumanLoopRequestSource")
    document: dict[str, Any] = {
        **({SOURCE: source} if source else {}),
        "flowDefinitionArn": arn_of_flow(loop),
        "humanAnswers": [_answer(each, reviewers[each.worker], issuer) for each in answers],
        "humanLoopName": loop.name,
    }
    head = json.dumps(document, ensure_ascii=False).encode()
    return b'%b, "inputContent": %b}' % (head.removesuffix(b"}"), content.encode())


def _answer(assignment: Assignment, reviewer: Reviewer, issuer: str) -> dict[str, Any]:
    assert assignment.submitted_at is not None, "an answer has its time"
    return {
        "acceptanceTime": _moment(assignment.accepted_at),
        "answerContent": assignment.answer,
        "submissionTime": _moment(assignment.submitted_at),
        "timeSpentInSeconds": assignment.spent_ms / 1000,
        "workerId": reviewer.worker_id,
        "workerMetadata": {
            "identityData": {
                "identityProviderType": "Oidc",
                "issuer": issuer,
                "sub": reviewer.name,
            }
        },
    }


def _moment(milliseconds: int) -> str:
    return to_datetime(milliseconds).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
