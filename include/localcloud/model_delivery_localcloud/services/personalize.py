"""Amazon Personalize: batch inference jobs, and what they refer to.

Solution versions are registered from bundles (`solution_versions.py`), since nothing is trained
here. What the recommenders behind them cannot do is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services import personalize_filters, personalize_tags
from model_delivery_localcloud.services.arns import BATCH_INFERENCE_JOB, FILTER, SOLUTION, arn_of
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.personalize_errors import (
    already_exists,
    bad_token,
    invalid_input,
    not_found,
    resource,
)
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.store import personalize as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.jobs import enqueue
from model_delivery_localcloud.store.tables import BatchInferenceJob, SolutionVersion

JOB_KIND = "batch-inference"
BATCH_INFERENCE = "BATCH_INFERENCE"
DEFAULT_PAGE = 100
MOST_RESULTS = 500
RECIPE_NAMES = {
    "user-personalization": "aws-user-personalization",
    "related-items": "aws-similar-items",
    "personalized-ranking": "aws-personalized-ranking",
}
_REFUSED = (
    "jobInput.s3DataSource.kmsKeyArn",
    "jobOutput.s3DataDestination.kmsKeyArn",
    "batchInferenceJobConfig.itemExplorationConfig",
    "batchInferenceJobConfig.rankingInfluence",
    "themeGenerationConfig",
)


class Personalize:
    """The batch part of Personalize over the store; the workers do the recommending."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return Personalize's built operations."""
        return {
            "CreateBatchInferenceJob": self.create,
            "DescribeBatchInferenceJob": self.describe,
            "ListBatchInferenceJobs": self.list,
            "DescribeSolutionVersion": self.describe_version,
            "ListSolutionVersions": self.list_versions,
            **personalize_filters.handlers(self._database),
            **personalize_tags.handlers(self._database),
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Queue a batch inference job; a name is taken for ever."""
        params, caller = dict(call.params), call.caller
        check_request(params)
        name, now = params["jobName"], now_ms()
        arn, tags = arn_of(caller, BATCH_INFERENCE_JOB, name), personalize_tags.tags_of(params)
        try:
            with self._database.write() as session:
                version = _version(session, caller, params["solutionVersionArn"])
                expression = _expression(session, caller, params, version)
                job = BatchInferenceJob(
                    account=caller.account,
                    region=caller.region,
                    name=name,
                    solution_version_arn=params["solutionVersionArn"],
                    request={key: params[key] for key in params if key != "tags"},
                    work=_work(arn, params, version, expression),
                    tags=tags,
                    status=states.PENDING,
                    created_at=now,
                    modified_at=now,
                )
                job.job_id = enqueue(session, JOB_KIND, job.account, job.region, name)
                session.add(job)
        except IntegrityError:
            raise already_exists(arn) from None
        return {"batchInferenceJobArn": arn}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a job's request, state, times and result."""
        arn = call.params["batchInferenceJobArn"]
        (name,) = resource(arn, call.caller, BATCH_INFERENCE_JOB).names
        with self._database.read() as session:
            job = states.find_batch_job(session, scope_of(call.caller), name)
        if job is None:
            raise not_found(arn)
        return {"batchInferenceJob": _description(job, arn)}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of jobs, newest first."""
        params = call.params
        version = params.get("solutionVersionArn")
        if version is not None:
            with self._database.read() as session:
                _version(session, call.caller, version)
        filters = {"solutionVersionArn": version}
        after = decode_token(params.get("nextToken"), filters, (int, str), bad_token)
        limit = params.get("maxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            jobs = states.list_batch_jobs(session, scope_of(call.caller), version, after, limit + 1)
        page = jobs[:limit]
        answer: dict[str, Any] = {
            "batchInferenceJobs": [_summary(job, call.caller) for job in page]
        }
        if len(jobs) > limit:
            answer["nextToken"] = encode_token(states.sort_key(page[-1]), filters)
        return answer

    def describe_version(self, call: Call) -> dict[str, Any]:
        """Answer what is known of a registered solution version."""
        arn = call.params["solutionVersionArn"]
        with self._database.read() as session:
            version = _version(session, call.caller, arn)
        return {
            "solutionVersion": {
                "name": version.solution,
                "solutionArn": arn_of(call.caller, SOLUTION, version.solution),
                "recipeArn": f"arn:aws:personalize:::recipe/{RECIPE_NAMES[version.recipe]}",
                "datasetGroupArn": arn_of(call.caller, "dataset-group", version.dataset_group),
                "performAutoML": False,
                "performHPO": False,
                **_version_summary(version, call.caller),
            }
        }

    def list_versions(self, call: Call) -> dict[str, Any]:
        """Answer one page of a solution's versions, oldest first."""
        params, arn = call.params, call.params.get("solutionArn")
        if arn is None:
            raise invalid_input("localcloud lists the versions of one solution: give solutionArn.")
        (name,) = resource(arn, call.caller, SOLUTION).names
        with self._database.read() as session:
            found = states.versions_of_solution(session, scope_of(call.caller), name)
        if not found:
            raise not_found(arn)
        filters = {"solutionArn": arn}
        after = decode_token(params.get("nextToken"), filters, (int, str), bad_token)
        left = [each for each in found if after is None or _place(each) > after]
        page = left[: params.get("maxResults", DEFAULT_PAGE)]
        answer: dict[str, Any] = {
            "solutionVersions": [_version_summary(each, call.caller) for each in page]
        }
        if len(left) > len(page):
            answer["nextToken"] = encode_token(_place(page[-1]), filters)
        return answer


def _place(version: SolutionVersion) -> list[Any]:
    return [version.created_at, version.version]


def scope_of(caller: Caller) -> tuple[str, str]:
    """Return the account and region that a caller's resources are in."""
    return caller.account, caller.region


def check_request(params: Mapping[str, Any]) -> None:
    """Refuse what is not supported, or cannot be right, before a job is made."""
    mode = params.get("batchInferenceJobMode", BATCH_INFERENCE)
    if mode != BATCH_INFERENCE:
        raise invalid_input(f"localcloud does not support batchInferenceJobMode {mode}.")
    refuse_members(params, _REFUSED, invalid_input)
    results = params.get("numResults")
    if results is not None and not 1 <= results <= MOST_RESULTS:
        raise invalid_input(f"numResults is {results}: give 1 to {MOST_RESULTS}.")
    source = params["jobInput"]["s3DataSource"]["path"]
    target = params["jobOutput"]["s3DataDestination"]["path"]
    for name, uri in (("jobInput", source), ("jobOutput", target)):
        if not uri.startswith("s3://"):
            raise invalid_input(f"{name}: the path must begin with s3://, got '{uri}'.")
        bucket, slash, _ = uri.removeprefix("s3://").partition("/")
        if not bucket or not slash:
            raise invalid_input(f"{name}: the path must be s3://bucket/key, got '{uri}'.")
    if source.endswith("/"):
        raise invalid_input(f"localcloud takes one object as jobInput, not a folder: '{source}'.")
    if not target.endswith("/"):
        raise invalid_input(f"jobOutput: the path must be a folder and end with /, got '{target}'.")


def _version(session: Session, caller: Caller, arn: str) -> SolutionVersion:
    names = resource(arn, caller, SOLUTION, parts=2).names
    found = states.find_solution_version(session, scope_of(caller), *names)
    if found is None:
        raise not_found(arn)
    return found


def _expression(
    session: Session, caller: Caller, params: Mapping[str, Any], version: SolutionVersion
) -> str | None:
    arn = params.get("filterArn")
    if arn is None:
        return None
    (name,) = resource(arn, caller, FILTER).names
    found = states.find_filter(session, scope_of(caller), name)
    if found is None:
        raise not_found(arn)
    if found.dataset_group != version.dataset_group:
        raise invalid_input(
            f"The filter {arn} is of dataset group {found.dataset_group}, the solution version of "
            f"{version.dataset_group}."
        )
    personalize_filters.check_fields(found.expression, version)
    return found.expression


def _work(
    arn: str, params: Mapping[str, Any], version: SolutionVersion, expression: str | None
) -> dict[str, Any]:
    """Return all that a worker needs: what the job refers to may be deleted meanwhile."""
    source = params["jobInput"]["s3DataSource"]["path"]
    folder = params["jobOutput"]["s3DataDestination"]["path"].rstrip("/")
    return {
        "arn": arn,
        "name": params["jobName"],
        "input_uri": source,
        "output_uri": f"{folder}/{source.rpartition('/')[2]}.out",
        "parts_uri": f"{folder}/_parts/{params['jobName']}",
        "results": params.get("numResults"),
        "bundle_uri": version.bundle_uri,
        "bundle_etag": version.bundle_etag,
        "items_uri": version.items_uri,
        "items_etag": version.items_etag,
        "expression": expression,
    }


def _description(job: BatchInferenceJob, arn: str) -> dict[str, Any]:
    # Of a finished job the service's own description counts the records, failed ones included.
    asked = {"numResults": job.request["numResults"]} if "numResults" in job.request else {}
    count = {"numResults": job.counts["records"]} if job.counts else asked
    kept = (
        "filterArn", "solutionVersionArn", "jobInput", "jobOutput", "batchInferenceJobConfig",
        "roleArn",
    )  # fmt: skip
    return {
        "jobName": job.name,
        "batchInferenceJobArn": arn,
        **{name: job.request[name] for name in kept if name in job.request},
        **count,
        "batchInferenceJobMode": BATCH_INFERENCE,
        **_state(job),
    }


def _summary(job: BatchInferenceJob, caller: Caller) -> dict[str, Any]:
    return {
        "batchInferenceJobArn": arn_of(caller, BATCH_INFERENCE_JOB, job.name),
        "jobName": job.name,
        "solutionVersionArn": job.solution_version_arn,
        "batchInferenceJobMode": BATCH_INFERENCE,
        **_state(job),
    }


def _state(job: BatchInferenceJob) -> dict[str, Any]:
    reason = {"failureReason": job.failure_reason} if job.failure_reason else {}
    return {
        "status": job.status,
        "creationDateTime": to_datetime(job.created_at),
        "lastUpdatedDateTime": to_datetime(job.modified_at),
        **reason,
    }


def _version_summary(version: SolutionVersion, caller: Caller) -> dict[str, Any]:
    created = to_datetime(version.created_at)
    return {
        "solutionVersionArn": arn_of(caller, SOLUTION, version.solution, version.version),
        "status": states.ACTIVE,
        "trainingMode": "FULL",
        "trainingType": "MANUAL",
        "creationDateTime": created,
        "lastUpdatedDateTime": created,
    }
