"""SageMaker compilation jobs: the hook, and the jobs as the lifecycle sees them.

Source: SageMaker API, CreateCompilationJob, DescribeCompilationJob, ListCompilationJobs,
StopCompilationJob.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from model_delivery.hooks.aws import AwsServiceHook
from model_delivery.jobs.service import (
    Call,
    Handle,
    Intent,
    JobDescription,
    JobList,
    JobService,
    ListedJob,
)
from model_delivery.jobs.status import StatusTable

# SageMaker begins the reason of a failure that the caller caused with this.
CLIENT_FAULT = "ClientError"
LARGEST_PAGE = 100


class CompilationJobHook(AwsServiceHook):
    """SageMaker's compilation jobs and their tags.

    Source: SageMaker API, the operations with CompilationJob in their names; AddTags, ListTags,
    DeleteTags.
    """

    service = "sagemaker"

    @property
    def client(self) -> Any:
        """Return boto3's `sagemaker` client."""
        return self.get_conn()

    def create_job(self, request: Mapping[str, Any]) -> str:
        """Create a compilation job and return its ARN."""
        return str(self.client.create_compilation_job(**request)["CompilationJobArn"])

    def describe_job(self, name: str) -> dict[str, Any]:
        """Return the service's description of a job."""
        return dict(self.client.describe_compilation_job(CompilationJobName=name))

    def list_jobs(
        self,
        *,
        name_contains: str | None = None,
        status: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        modified_after: datetime | None = None,
        modified_before: datetime | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        page_size: int = LARGEST_PAGE,
        limit: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the summaries of the jobs that fit, page by page as they are asked for.

        :param status: STARTING, INPROGRESS, COMPLETED, FAILED, STOPPING or STOPPED
        :param created_after: times are exclusive
        :param sort_by: Name, CreationTime or Status (default: CreationTime)
        :param sort_order: Ascending or Descending (default: Ascending)
        :param page_size: jobs in one answer, 1 to 100 (default: 100)
        :param limit: most jobs in all (default: no limit)
        """
        given = {
            "NameContains": name_contains,
            "StatusEquals": status,
            "CreationTimeAfter": created_after,
            "CreationTimeBefore": created_before,
            "LastModifiedTimeAfter": modified_after,
            "LastModifiedTimeBefore": modified_before,
            "SortBy": sort_by,
            "SortOrder": sort_order,
        }
        filters = {name: value for name, value in given.items() if value is not None}
        paging = {"PageSize": page_size, "MaxItems": limit}
        paginator = self.client.get_paginator("list_compilation_jobs")
        for page in paginator.paginate(**filters, PaginationConfig=paging):
            yield from page["CompilationJobSummaries"]

    def stop_job(self, name: str) -> None:
        """Ask for a job to be stopped."""
        self.client.stop_compilation_job(CompilationJobName=name)

    def delete_job(self, name: str) -> None:
        """Delete the record of a job that ended; what it compiled stays."""
        self.client.delete_compilation_job(CompilationJobName=name)

    def add_tags(self, arn: str, tags: Mapping[str, str]) -> dict[str, str]:
        """Add tags to a job, or give them new values; return what was set."""
        answer = self.client.add_tags(ResourceArn=arn, Tags=as_tags(tags))
        return {tag["Key"]: tag["Value"] for tag in answer["Tags"]}

    def list_tags(self, arn: str) -> dict[str, str]:
        """Return a job's tags."""
        pages = self.client.get_paginator("list_tags").paginate(ResourceArn=arn)
        return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}

    def delete_tags(self, arn: str, keys: Sequence[str]) -> None:
        """Take tags from a job; one that it has not is no error."""
        self.client.delete_tags(ResourceArn=arn, TagKeys=list(keys))


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags in the API's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


class CompilationJobList(JobList):
    """ListCompilationJobs of what was modified since: one page however many jobs wait."""

    takes_watermark = True

    def call(self, scope: str, modified_after: datetime | None) -> Call:
        """ListCompilationJobs; a creation time never changes, so pages in its order stay put."""
        order = "Descending" if modified_after is None else "Ascending"
        parameters = {"MaxResults": 100, "SortBy": "CreationTime", "SortOrder": order}
        since = {"LastModifiedTimeAfter": modified_after} if modified_after else {}
        return Call("list_compilation_jobs", {**parameters, **since}, token="NextToken")

    def read(self, response: Mapping[str, Any]) -> Sequence[ListedJob]:
        """Name, status and last change of each job."""
        return [
            ListedJob(
                key=each["CompilationJobName"],
                status=each["CompilationJobStatus"],
                modified=each.get("LastModifiedTime") or each["CreationTime"],
            )
            for each in response["CompilationJobSummaries"]
        ]


class CompilationJobs(JobService):
    """Compilation jobs for the lifecycle: the name identifies a job."""

    hook_path = "model_delivery.hooks.compilation.CompilationJobHook"
    noun = "compilation job"
    name_parameter = "CompilationJobName"
    unique_names = True
    taken_codes = frozenset({"ResourceInUse"})
    job_list = CompilationJobList()
    statuses = StatusTable(
        service="SageMaker",
        running=("STARTING", "INPROGRESS", "STOPPING"),
        succeeded=("COMPLETED",),
        failed=("FAILED",),
        stopped=("STOPPED",),
        stopping=("STOPPING",),
    )

    def submit_call(self, request: Mapping[str, Any]) -> Call:
        """CreateCompilationJob."""
        return Call("create_compilation_job", request)

    def submitted(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> Handle:
        """Name and ARN."""
        return {"name": request["CompilationJobName"], "arn": response["CompilationJobArn"]}

    def describe_calls(self, handle: Handle) -> Sequence[Call]:
        """DescribeCompilationJob."""
        return [Call("describe_compilation_job", {"CompilationJobName": handle["name"]})]

    def described(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        """Status, reason and the artifact's place."""
        (answer,) = responses
        status = answer["CompilationJobStatus"]
        reason = answer.get("FailureReason") or None
        return JobDescription(
            handle={"name": handle["name"], "arn": answer["CompilationJobArn"]},
            status=status,
            state=self.statuses.state(status, f"compilation job {handle['name']}"),
            reason=reason,
            retryable=not (reason or "").startswith(CLIENT_FAULT),
            detail=answer,
        )

    def stop_call(self, handle: Handle) -> Call:
        """StopCompilationJob."""
        return Call("stop_compilation_job", {"CompilationJobName": handle["name"]})

    def search(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the name: nobody else's job has it."""
        return {"name": request["CompilationJobName"]}

    def find_calls(self, intent: Intent) -> Sequence[Call]:
        """DescribeCompilationJob: the list may lag behind."""
        return self.describe_calls({"name": intent.search["name"]})

    def found(self, intent: Intent, responses: Iterable[Mapping[str, Any]]) -> Iterator[Handle]:
        """Yield the job of that name."""
        for answer in responses:
            yield {"name": answer["CompilationJobName"], "arn": answer["CompilationJobArn"]}

    def requested(self, description: JobDescription) -> Mapping[str, Any]:
        """Return everything but the tags, which Describe leaves out."""
        fields = (
            "RoleArn", "ModelPackageVersionArn", "InputConfig", "OutputConfig", "VpcConfig",
            "StoppingCondition",
        )  # fmt: skip
        return {name: description.detail.get(name) for name in fields}
