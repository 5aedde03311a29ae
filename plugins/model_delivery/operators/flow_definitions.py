"""Human review workflows of Augmented AI: flow definitions."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from model_delivery import a2i
from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected
from model_delivery.exceptions import (
    DeliveryError,
    InvalidRequestError,
    JobMissingError,
    JobRefusedError,
    RequestDiffersError,
)
from model_delivery.jobs.record import differences
from model_delivery.jobs.service import JobDescription
from model_delivery.jobs.status import JobState
from model_delivery.operators.human_task_uis import HOOK, _ListOperator, deleted
from model_delivery.xcom import (
    VERSION,
    DeletedReviewResource,
    FlowDefinitionResult,
    ReviewResourceListing,
)


class CreateFlowDefinitionOperator(AwsConnected):
    """Makes a human review workflow and waits until it is Active.

    One that is there already under the name is used where its request is the same, and refused by
    the fields that differ otherwise.

    Source: SageMaker API, CreateFlowDefinition.

    :param flow_definition_name: name: at most 63 lower-case letters, digits and hyphens.
    :param role_arn: IAM role that the service assumes.
    :param workteam_arn: ARN of the reviewers' work team.
    :param human_task_ui_arn: ARN of the template they work with.
    :param task_title: title of the task, at most 128 characters.
    :param task_description: what to do, at most 255 characters.
    :param output_uri: `s3://` URI below which each loop's answers are written.
    :param task_count: distinct reviewers for each item, 1 to 3. (default: 1)
    :param task_availability_seconds: how long a task can be taken, in seconds.
        (default: the service's own, 10 days)
    :param task_time_limit_seconds: how long a reviewer may take for one, in seconds, at least 30.
        (default: the service's own, 1 hour)
    :param task_keywords: at most 5, by which workers find the task.
    :param task_price: US dollars a task, for a public work team: one of the list that fits.
    :param request_source: AWS/Rekognition/DetectModerationLabels/Image/V3 or
        AWS/Textract/AnalyzeDocument/Forms/V1. (default: none, a custom task)
    :param activation_conditions: when the request source starts a review: JSON text, or the
        dictionary that it stands for. Only with a request source.
    :param output_kms_key_id: key that encrypts the output.
    :param tags: tags of the flow definition, at most 50.
    :param wait_for_completion: wait until it is Active. (default: True)
    :param poll_interval: time between two looks, in seconds. (default: 1)
    :param active_timeout: longest wait, in seconds. (default: 300)
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "flow_definition_name", "role_arn", "workteam_arn",
        "human_task_ui_arn", "task_title", "task_description", "output_uri", "task_count",
        "task_availability_seconds", "task_time_limit_seconds", "task_keywords", "task_price",
        "request_source", "activation_conditions", "output_kms_key_id", "tags",
    )  # fmt: skip

    def __init__(
        self,
        *,
        flow_definition_name: str,
        role_arn: str,
        workteam_arn: str,
        human_task_ui_arn: str,
        task_title: str,
        task_description: str,
        output_uri: str,
        task_count: int | str = 1,
        task_availability_seconds: int | str | None = None,
        task_time_limit_seconds: int | str | None = None,
        task_keywords: Sequence[str] | None = None,
        task_price: str | float | None = None,
        request_source: str | None = None,
        activation_conditions: str | Mapping[str, Any] | None = None,
        output_kms_key_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        wait_for_completion: bool = True,
        poll_interval: float = 1.0,
        active_timeout: float = 300.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.flow_definition_name = flow_definition_name
        self.role_arn = role_arn
        self.workteam_arn = workteam_arn
        self.human_task_ui_arn = human_task_ui_arn
        self.task_title = task_title
        self.task_description = task_description
        self.output_uri = output_uri
        self.task_count = task_count
        self.task_availability_seconds = task_availability_seconds
        self.task_time_limit_seconds = task_time_limit_seconds
        self.task_keywords = task_keywords
        self.task_price = task_price
        self.request_source = request_source
        self.activation_conditions = activation_conditions
        self.output_kms_key_id = output_kms_key_id
        self.tags = tags
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self.active_timeout = active_timeout

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> FlowDefinitionResult:
        """Create it or take the one that is there; then wait."""
        from model_delivery.hooks.human_review import FlowDefinitions
        from model_delivery.jobs.client import JobClient
        from model_delivery.jobs.faults import error_code

        request, handle = self.build_request(), {"name": self.flow_definition_name}
        client = JobClient(FlowDefinitions(), self.open_hook)
        call = client.service.submit_call(request)
        try:
            client.patiently(lambda: client.run(call), handle, refusals=1)
        except (DeliveryError, JobRefusedError) as error:
            if error_code(error.__cause__ or error) not in client.service.taken_codes:
                raise
            try:
                found = client.describe(handle)
            except JobMissingError as missing:  # it was being deleted, and now is
                raise self._deleted() from missing
            self._require_same(request, found)
        return flow_definition_result(self._active(client))

    def build_request(self) -> dict[str, Any]:
        """Return CreateFlowDefinition's request, held against the API's model and its prose."""
        source = a2i.request_source(self.request_source)
        limit = _seconds("task_time_limit_seconds", self.task_time_limit_seconds)
        availability = _seconds("task_availability_seconds", self.task_availability_seconds)
        a2i.check_task(self.task_keywords, limit, availability)
        conditions = a2i.activation_conditions(self.activation_conditions, source)
        if not self.output_uri.startswith("s3://"):
            raise InvalidRequestError(f"output_uri {self.output_uri!r} must begin with s3://")
        config = {"HumanLoopActivationConditions": conditions}
        request = _given(
            {
                "FlowDefinitionName": self.flow_definition_name,
                "HumanLoopRequestSource": _given({"AwsManagedHumanLoopRequestSource": source}),
                "HumanLoopActivationConfig": _given(
                    {"HumanLoopActivationConditionsConfig": _given(config)}
                ),
                "HumanLoopConfig": _given(
                    {
                        "WorkteamArn": self.workteam_arn,
                        "HumanTaskUiArn": self.human_task_ui_arn,
                        "TaskTitle": self.task_title,
                        "TaskDescription": self.task_description,
                        "TaskCount": _seconds("task_count", self.task_count),
                        "TaskAvailabilityLifetimeInSeconds": availability,
                        "TaskTimeLimitInSeconds": limit,
                        "TaskKeywords": list(self.task_keywords or []),
                        "PublicWorkforceTaskPrice": a2i.task_price(
                            self.task_price, source, self.workteam_arn
                        ),
                    }
                ),
                "OutputConfig": _given(
                    {"S3OutputPath": self.output_uri, "KmsKeyId": self.output_kms_key_id}
                ),
                "RoleArn": self.role_arn,
                "Tags": [{"Key": key, "Value": value} for key, value in (self.tags or {}).items()],
            }
        )
        self.hook.check_flow_definition(request)
        return request

    @property
    def _label(self) -> str:
        return f"flow definition {self.flow_definition_name}"

    def _deleted(self) -> DeliveryError:
        return DeliveryError(f"{self._label} is being deleted: a retry makes it anew")

    def _require_same(self, request: Mapping[str, Any], found: JobDescription) -> None:
        from model_delivery.hooks.human_review import FlowDefinitions

        if found.state is JobState.STOPPED:
            raise self._deleted()
        theirs = FlowDefinitions().requested(found)
        # A request source or conditions that ours has none of are a difference too.
        lines = differences({name: request.get(name) for name in theirs}, theirs)
        if lines:
            raise RequestDiffersError(
                f"{self._label} exists with another request ({'; '.join(lines)}): choose another "
                "name, or delete it with DeleteFlowDefinitionOperator"
            )
        self.log.info("%s is there already", self._label)

    def _active(self, client: Any) -> JobDescription:
        handle = {"name": self.flow_definition_name}
        found: JobDescription = (
            client.ended(
                handle,
                interval=self.poll_interval,
                longest=self.active_timeout,
                limit="active_timeout",
            )
            if self.wait_for_completion
            else client.describe(handle)
        )
        if found.state in {JobState.FAILED, JobState.STOPPED}:
            raise InvalidRequestError(
                f"{self._label} is {found.status}: {found.reason or 'the service gave no reason'}; "
                "correct the request and delete it, or choose another name"
            )
        return found


class DescribeFlowDefinitionOperator(AwsConnected):
    """Describes a human review workflow.

    Source: SageMaker API, DescribeFlowDefinition.

    :param flow_definition_name: its name.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "flow_definition_name")

    def __init__(self, *, flow_definition_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flow_definition_name = flow_definition_name

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> FlowDefinitionResult:
        """Describe it."""
        from model_delivery.hooks.human_review import FlowDefinitions
        from model_delivery.jobs.client import JobClient

        client = JobClient(FlowDefinitions(), self.open_hook)
        return flow_definition_result(client.describe({"name": self.flow_definition_name}))


class ListFlowDefinitionsOperator(_ListOperator):
    """Lists human review workflows; the summaries go to storage, the first names to XCom.

    Source: SageMaker API, ListFlowDefinitions.
    """

    name_member = "FlowDefinitionName"

    def execute(self, context: Context) -> ReviewResourceListing:
        """Page through the list."""
        return self._listing(self.hook.list_flow_definitions, "the flow definitions")


class DeleteFlowDefinitionOperator(AwsConnected):
    """Deletes a human review workflow; one that is not there is no error.

    Source: SageMaker API, DeleteFlowDefinition.

    :param flow_definition_name: its name.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "flow_definition_name")

    def __init__(self, *, flow_definition_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flow_definition_name = flow_definition_name

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> DeletedReviewResource:
        """Delete it, once."""
        name = self.flow_definition_name
        return deleted(
            name, lambda: self.hook.delete_flow_definition(name), f"flow definition {name}"
        )


def flow_definition_result(found: JobDescription) -> FlowDefinitionResult:
    """Read a description as the XCom of operators and sensor."""
    return {
        "version": VERSION,
        "flow_definition_arn": found.handle["arn"],
        "flow_definition_name": found.handle["name"],
        "status": found.status,
        "output_uri": found.detail["OutputConfig"]["S3OutputPath"],
    }


def _seconds(parameter: str, value: Any) -> int | None:
    if value in (None, ""):
        return None
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{parameter} is {value!r}: give a whole number") from error


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "", {}, [])}
