"""Augmented AI: flow definitions, human task UIs and human loops.

Source: SageMaker API, the operations with FlowDefinition and HumanTaskUi in their names; Augmented
AI Runtime API, all operations.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from model_delivery.hooks.aws import AwsServiceHook
from model_delivery.hooks.constraints import check_request
from model_delivery.human_loops.watch import STATUSES
from model_delivery.jobs.service import Call, Handle, Intent, JobDescription, JobService
from model_delivery.jobs.status import StatusTable

LARGEST_PAGE = 100


class HumanReviewHook(AwsServiceHook):
    """SageMaker's flow definitions and human task UIs."""

    service = "sagemaker"

    @property
    def client(self) -> Any:
        """Return boto3's `sagemaker` client."""
        return self.get_conn()

    def check_flow_definition(self, request: Mapping[str, Any]) -> None:
        """Hold CreateFlowDefinition's request against the API's model; nothing is called.

        :raises InvalidRequestError: names every fault
        """
        check_request(self.client, "CreateFlowDefinition", request)

    def create_flow_definition(self, request: Mapping[str, Any]) -> str:
        """Create a flow definition and return its ARN."""
        return str(self.client.create_flow_definition(**request)["FlowDefinitionArn"])

    def describe_flow_definition(self, name: str) -> dict[str, Any]:
        """Return the service's description of a flow definition."""
        return dict(self.client.describe_flow_definition(FlowDefinitionName=name))

    def list_flow_definitions(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield the summaries of flow definitions.

        :param filters: CreationTimeAfter, CreationTimeBefore, SortOrder
        """
        for page in self.client.get_paginator("list_flow_definitions").paginate(**filters):
            yield from page["FlowDefinitionSummaries"]

    def delete_flow_definition(self, name: str) -> None:
        """Begin to delete a flow definition."""
        self.client.delete_flow_definition(FlowDefinitionName=name)

    def check_human_task_ui(self, request: Mapping[str, Any]) -> None:
        """Hold CreateHumanTaskUi's request against the API's model; nothing is called."""
        check_request(self.client, "CreateHumanTaskUi", request)

    def create_human_task_ui(self, request: Mapping[str, Any]) -> str:
        """Create a worker task template and return its ARN."""
        return str(self.client.create_human_task_ui(**request)["HumanTaskUiArn"])

    def describe_human_task_ui(self, name: str) -> dict[str, Any]:
        """Return the service's description: `UiTemplate` has an address and a digest."""
        return dict(self.client.describe_human_task_ui(HumanTaskUiName=name))

    def list_human_task_uis(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield the summaries of human task UIs.

        :param filters: CreationTimeAfter, CreationTimeBefore, SortOrder
        """
        for page in self.client.get_paginator("list_human_task_uis").paginate(**filters):
            yield from page["HumanTaskUiSummaries"]

    def render_ui_template(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return `RenderedContent` and `Errors` of a template with a task filled in.

        :param request: RenderUiTemplate's, held against the API's model before the call
        """
        check_request(self.client, "RenderUiTemplate", request)
        return dict(self.client.render_ui_template(**request))

    def delete_human_task_ui(self, name: str) -> None:
        """Delete a worker task template."""
        self.client.delete_human_task_ui(HumanTaskUiName=name)


class HumanLoopHook(AwsServiceHook):
    """Augmented AI's runtime: human loops."""

    service = "sagemaker-a2i-runtime"

    @property
    def client(self) -> Any:
        """Return boto3's `sagemaker-a2i-runtime` client."""
        return self.get_conn()

    def start_loop(self, request: Mapping[str, Any]) -> str:
        """Start a human loop and return its ARN; the same request again is the same loop."""
        return str(self.client.start_human_loop(**request)["HumanLoopArn"])

    def describe_loop(self, name: str) -> dict[str, Any]:
        """Return the service's description of a loop; it does not hold the loop's input."""
        return dict(self.client.describe_human_loop(HumanLoopName=name))

    def list_loops(self, flow_definition_arn: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield the summaries of a flow definition's loops.

        :param filters: CreationTimeAfter, CreationTimeBefore, SortOrder
        """
        paginator = self.client.get_paginator("list_human_loops")
        for page in paginator.paginate(FlowDefinitionArn=flow_definition_arn, **filters):
            yield from page["HumanLoopSummaries"]

    def stop_loop(self, name: str) -> None:
        """Stop a loop: nobody can answer it any more."""
        self.client.stop_human_loop(HumanLoopName=name)

    def delete_loop(self, name: str) -> None:
        """Delete a loop; what it wrote to storage stays."""
        self.client.delete_human_loop(HumanLoopName=name)


class FlowDefinitions(JobService):
    """Flow definitions for the lifecycle: they are made in the background until they are Active."""

    hook_path = "model_delivery.hooks.human_review.HumanReviewHook"
    noun = "flow definition"
    name_parameter = "FlowDefinitionName"
    unique_names = True
    taken_codes = frozenset({"ResourceInUse"})
    statuses = StatusTable(
        service="SageMaker",
        running=("Initializing",),
        succeeded=("Active",),
        failed=("Failed",),
        stopped=("Deleting",),
    )

    def submit_call(self, request: Mapping[str, Any]) -> Call:
        """CreateFlowDefinition."""
        return Call("create_flow_definition", request)

    def submitted(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> Handle:
        """Name and ARN."""
        return {"name": request["FlowDefinitionName"], "arn": response["FlowDefinitionArn"]}

    def describe_calls(self, handle: Handle) -> Sequence[Call]:
        """DescribeFlowDefinition."""
        return [Call("describe_flow_definition", {"FlowDefinitionName": handle["name"]})]

    def described(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        """Status and reason; a flow definition that failed never becomes Active."""
        (answer,) = responses
        status = answer["FlowDefinitionStatus"]
        return JobDescription(
            handle={"name": answer["FlowDefinitionName"], "arn": answer["FlowDefinitionArn"]},
            status=status,
            state=self.statuses.state(status, f"flow definition {handle['name']}"),
            reason=answer.get("FailureReason") or None,
            retryable=False,
            detail=answer,
        )

    def stop_call(self, handle: Handle) -> None:
        """Return None: there is nothing to stop."""

    def search(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the name."""
        return {"name": request["FlowDefinitionName"]}

    def find_calls(self, intent: Intent) -> Sequence[Call]:
        """DescribeFlowDefinition."""
        return self.describe_calls({"name": intent.search["name"]})

    def found(self, intent: Intent, responses: Iterable[Mapping[str, Any]]) -> Iterator[Handle]:
        """Yield the flow definition of that name."""
        for answer in responses:
            yield {"name": answer["FlowDefinitionName"], "arn": answer["FlowDefinitionArn"]}

    def requested(self, description: JobDescription) -> Mapping[str, Any]:
        """Return everything but the tags, which Describe leaves out."""
        fields = (
            "HumanLoopRequestSource", "HumanLoopActivationConfig", "HumanLoopConfig",
            "OutputConfig", "RoleArn",
        )  # fmt: skip
        return {name: description.detail.get(name) for name in fields}


class HumanLoops(JobService):
    """Human loops, one by one; a batch is waited for in `human_loops`."""

    hook_path = "model_delivery.hooks.human_review.HumanLoopHook"
    noun = "human loop"
    name_parameter = "HumanLoopName"
    unique_names = True
    taken_codes = frozenset({"ConflictException"})
    statuses = STATUSES

    def submit_call(self, request: Mapping[str, Any]) -> Call:
        """StartHumanLoop."""
        return Call("start_human_loop", request)

    def submitted(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> Handle:
        """Name and ARN."""
        return {"name": request["HumanLoopName"], "arn": response["HumanLoopArn"]}

    def describe_calls(self, handle: Handle) -> Sequence[Call]:
        """DescribeHumanLoop."""
        return [Call("describe_human_loop", {"HumanLoopName": handle["name"]})]

    def described(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        """Status, reason and the output's place."""
        (answer,) = responses
        status = answer["HumanLoopStatus"]
        return JobDescription(
            handle={"name": answer["HumanLoopName"], "arn": answer["HumanLoopArn"]},
            status=status,
            state=self.statuses.state(status, f"human loop {handle['name']}"),
            reason=answer.get("FailureReason") or None,
            detail=answer,
        )

    def stop_call(self, handle: Handle) -> Call:
        """StopHumanLoop."""
        return Call("stop_human_loop", {"HumanLoopName": handle["name"]})

    def search(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the name."""
        return {"name": request["HumanLoopName"]}

    def find_calls(self, intent: Intent) -> Sequence[Call]:
        """DescribeHumanLoop."""
        return self.describe_calls({"name": intent.search["name"]})

    def found(self, intent: Intent, responses: Iterable[Mapping[str, Any]]) -> Iterator[Handle]:
        """Yield the loop of that name."""
        for answer in responses:
            yield {"name": answer["HumanLoopName"], "arn": answer["HumanLoopArn"]}

    def requested(self, description: JobDescription) -> Mapping[str, Any]:
        """Return the flow definition: Describe does not give the input back."""
        return {"FlowDefinitionArn": description.detail.get("FlowDefinitionArn")}
