"""Personalize batch inference jobs: the hook, and the jobs as the lifecycle sees them.

Source: Amazon Personalize API, CreateBatchInferenceJob, DescribeBatchInferenceJob,
ListBatchInferenceJobs, ListTagsForResource, TagResource, UntagResource.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from model_delivery.exceptions import DeliveryError, InvalidRequestError
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
from model_delivery.links.job import is_aws

# localcloud begins the reason of a failure that the caller caused with this; AWS does not.
CLIENT_FAULT = "ClientError"
# localcloud's own: Personalize has no operation that takes a trained model.
REGISTRATION_PATH = "/personalize/v1/solution-versions"
REGISTRATION_SECONDS = 300.0


class PersonalizeHook(AwsServiceHook):
    """Thin hook over boto3's `personalize` client for batch inference jobs."""

    service = "personalize"

    @property
    def client(self) -> Any:
        """Return boto3's `personalize` client."""
        return self.get_conn()

    def create_job(self, request: Mapping[str, Any]) -> str:
        """Create a batch inference job and return its ARN."""
        return str(self.client.create_batch_inference_job(**request)["batchInferenceJobArn"])

    def describe_job(self, arn: str) -> dict[str, Any]:
        """Return the service's description of a job."""
        answer = self.client.describe_batch_inference_job(batchInferenceJobArn=arn)
        return dict(answer["batchInferenceJob"])

    def list_jobs(self, solution_version_arn: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the summaries of all jobs, of one solution version or of all."""
        wanted = {"solutionVersionArn": solution_version_arn} if solution_version_arn else {}
        for page in self.client.get_paginator("list_batch_inference_jobs").paginate(**wanted):
            yield from page["batchInferenceJobs"]

    def tags(self, arn: str) -> dict[str, str]:
        """Return a resource's tags."""
        answer = self.client.list_tags_for_resource(resourceArn=arn)
        return {each["tagKey"]: each["tagValue"] for each in answer["tags"]}

    def tag(self, arn: str, tags: Mapping[str, str]) -> None:
        """Add tags to a resource, or change their values."""
        self.client.tag_resource(resourceArn=arn, tags=as_tags(tags))

    def untag(self, arn: str, keys: Iterable[str]) -> None:
        """Remove tags from a resource."""
        self.client.untag_resource(resourceArn=arn, tagKeys=list(keys))

    def register_solution_version(self, registration: Mapping[str, str]) -> str:
        """Register a recommender's bundle with localcloud and return the version's ARN.

        :param registration: solutionName, recipe, bundleUri, and if wanted itemsUri and
            datasetGroupName.
        :raises InvalidRequestError: when the connection leads to AWS, which trains solution
            versions itself, or when localcloud refuses the bundle.
        :raises DeliveryError: when it does not answer.
        """
        import httpx
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        endpoint = str(self.client.meta.endpoint_url)
        if is_aws(endpoint):
            raise InvalidRequestError(
                "Amazon Personalize trains solution versions itself and takes no model: train one "
                "there and give its ARN, or use a connection to localcloud"
            )
        body = json.dumps(dict(registration)).encode()
        request = AWSRequest("POST", f"{endpoint}{REGISTRATION_PATH}", data=body,
                             headers={"Content-Type": "application/json"})  # fmt: skip
        SigV4Auth(self.get_credentials(), "personalize", self.client.meta.region_name).add_auth(
            request
        )
        headers = dict(request.headers.items())
        verify = self.verify if self.verify is not None else True
        try:
            answer = httpx.post(str(request.url), content=body, headers=headers, verify=verify,
                                timeout=REGISTRATION_SECONDS)  # fmt: skip
        except httpx.HTTPError as error:
            raise DeliveryError(
                f"localcloud at {endpoint} gave no answer: {error}: check that it is up"
            ) from error
        if answer.is_server_error:
            raise DeliveryError(f"localcloud at {endpoint} failed: {answer.text}")
        if answer.is_client_error:
            raise InvalidRequestError(
                f"localcloud does not register {registration['bundleUri']}: {_message(answer)}"
            )
        return str(answer.json()["solutionVersionArn"])


class BatchInferenceJobList(JobList):
    """ListBatchInferenceJobs of one solution version; it takes no time to filter by."""

    def scope(self, handle: Handle) -> str:
        """Return the solution version; empty where nobody said it: then all jobs are listed."""
        return handle.get("solution_version_arn", "")

    def call(self, scope: str, modified_after: datetime | None) -> Call:
        """ListBatchInferenceJobs."""
        wanted = {"solutionVersionArn": scope} if scope else {}
        parameters = {"maxResults": 100, **wanted}
        return Call("list_batch_inference_jobs", parameters, token="nextToken")

    def read(self, response: Mapping[str, Any]) -> Sequence[ListedJob]:
        """ARN, status and last change of each job."""
        return [
            ListedJob(
                key=each["batchInferenceJobArn"],
                status=each["status"],
                modified=each.get("lastUpdatedDateTime") or each.get("creationDateTime"),
            )
            for each in response["batchInferenceJobs"]
        ]


class BatchInferenceJobs(JobService):
    """Batch inference jobs for the lifecycle: a name is taken for ever, and leads to the ARN.

    The service has no stop and no delete: of a job that is killed the log says that it goes on.
    """

    hook_path = "model_delivery.hooks.personalize.PersonalizeHook"
    noun = "batch inference job"
    name_parameter = "jobName"
    unique_names = True
    taken_codes = frozenset({"ResourceAlreadyExistsException"})
    job_list = BatchInferenceJobList()
    statuses = StatusTable(
        service="Personalize",
        # The second pair is what the service's other resources say while they are made.
        running=("PENDING", "IN PROGRESS", "CREATE PENDING", "CREATE IN_PROGRESS"),
        succeeded=("ACTIVE",),
        failed=("CREATE FAILED",),
    )

    def key(self, handle: Handle) -> str:
        """Return the ARN."""
        return handle["arn"]

    def submit_call(self, request: Mapping[str, Any]) -> Call:
        """CreateBatchInferenceJob."""
        return Call("create_batch_inference_job", request)

    def submitted(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> Handle:
        """Name, ARN and solution version."""
        return {
            "name": request["jobName"],
            "arn": response["batchInferenceJobArn"],
            "solution_version_arn": request["solutionVersionArn"],
        }

    def describe_calls(self, handle: Handle) -> Sequence[Call]:
        """DescribeBatchInferenceJob."""
        return [Call("describe_batch_inference_job", {"batchInferenceJobArn": handle["arn"]})]

    def described(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        """Status, reason, and the request as the service kept it."""
        (answer,) = responses
        job = answer["batchInferenceJob"]
        status, reason = job["status"], job.get("failureReason") or None
        return JobDescription(
            handle=_handle(job),
            status=status,
            state=self.statuses.state(status, f"batch inference job {handle['arn']}"),
            reason=reason,
            retryable=not (reason or "").startswith(CLIENT_FAULT),
            detail=job,
        )

    def stop_call(self, handle: Handle) -> None:
        """Return None: the service has no stop."""

    def search(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return name and ARN, which follows from the name, in the solution version's account."""
        name, version = request["jobName"], request["solutionVersionArn"]
        prefix = version.rsplit(":", 1)[0]
        return {"name": name, "arn": f"{prefix}:batch-inference-job/{name}"}

    def find_calls(self, intent: Intent) -> Sequence[Call]:
        """DescribeBatchInferenceJob: the list may lag behind."""
        return self.describe_calls({"arn": intent.search["arn"]})

    def found(self, intent: Intent, responses: Iterable[Mapping[str, Any]]) -> Iterator[Handle]:
        """Yield the job of that name."""
        for answer in responses:
            yield _handle(answer["batchInferenceJob"])

    def requested(self, description: JobDescription) -> Mapping[str, Any]:
        """Return everything but tags, which Describe leaves out, and numResults.

        Of a job, numResults is documented as the number of recommendations that it generated, not
        as what was asked for.
        """
        fields = (
            "solutionVersionArn", "filterArn", "jobInput", "jobOutput", "roleArn",
            "batchInferenceJobConfig", "batchInferenceJobMode", "themeGenerationConfig",
        )  # fmt: skip
        return {name: description.detail.get(name) for name in fields}


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as Personalize spells them."""
    return [{"tagKey": key, "tagValue": value} for key, value in tags.items()]


def _handle(job: Mapping[str, Any]) -> Handle:
    return {
        "name": job["jobName"],
        "arn": job["batchInferenceJobArn"],
        "solution_version_arn": job["solutionVersionArn"],
    }


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}: {answer.text[:500]}"
