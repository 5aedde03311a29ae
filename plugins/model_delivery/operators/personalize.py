"""Batch recommendations: Amazon Personalize's batch inference jobs."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected
from model_delivery.exceptions import InvalidRequestError
from model_delivery.jobs.operator import JobOperator
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.lineage import Lineage
from model_delivery.links.job import console_url, is_aws
from model_delivery.templated import number, whole_number
from model_delivery.xcom import (
    VERSION,
    BatchInferenceJobResult,
    ListedBatchInferenceJobs,
    SolutionVersionResult,
)

if TYPE_CHECKING:
    from model_delivery.hooks.personalize import PersonalizeHook

MOST_RESULTS = 500
BATCH_INFERENCE = "BATCH_INFERENCE"
THEME_GENERATION = "THEME_GENERATION"
INFLUENCES = ("POPULARITY", "FRESHNESS")
MOST_TAGS = 50
MOST_ARNS_IN_XCOM = 100


class CreateBatchInferenceJobOperator(JobOperator):
    """Has Personalize recommend for every line of an object, and waits for the results.

    The service has no stop: a job whose task is killed goes on, and the task's log says so.

    Source: Amazon Personalize API, CreateBatchInferenceJob.

    :param solution_version_arn: the trained solution version.
    :param role_arn: IAM role that reads the input and writes the output.
    :param input_uri: `s3://` URI of the input, JSON lines: `{"userId"}`, `{"itemId"}` or
        `{"userId", "itemList"}`, as the recipe takes them.
    :param output_uri: `s3://` folder of the results, which ends in a slash.
    :param num_results: recommendations a record, 1 to 500. (default: the service's own, 25)
    :param filter_arn: filter that leaves items out.
    :param input_kms_key_arn: key that the input is encrypted with.
    :param output_kms_key_arn: key to encrypt the output with.
    :param item_exploration_config: of User-Personalization: explorationWeight and
        explorationItemAgeCutOff.
    :param ranking_influence: weight of POPULARITY and FRESHNESS, each 0 to 1.
    :param mode: BATCH_INFERENCE or THEME_GENERATION. (default: the service's own, the first)
    :param theme_item_name: column with the items' names, for THEME_GENERATION.
    :param tags: tags of the job, at most 50.
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "solution_version_arn", "role_arn", "input_uri", "output_uri",
        "num_results", "filter_arn", "input_kms_key_arn", "output_kms_key_arn",
        "item_exploration_config", "ranking_influence", "mode", "theme_item_name", "tags",
    )  # fmt: skip

    def __init__(
        self,
        *,
        solution_version_arn: str,
        role_arn: str,
        input_uri: str,
        output_uri: str,
        num_results: int | str | None = None,
        filter_arn: str | None = None,
        input_kms_key_arn: str | None = None,
        output_kms_key_arn: str | None = None,
        item_exploration_config: Mapping[str, str] | None = None,
        ranking_influence: Mapping[str, float] | None = None,
        mode: str | None = None,
        theme_item_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.solution_version_arn = solution_version_arn
        self.role_arn = role_arn
        self.input_uri = input_uri
        self.output_uri = output_uri
        self.num_results = num_results
        self.filter_arn = filter_arn
        self.input_kms_key_arn = input_kms_key_arn
        self.output_kms_key_arn = output_kms_key_arn
        self.item_exploration_config = item_exploration_config
        self.ranking_influence = ranking_influence
        self.mode = mode
        self.theme_item_name = theme_item_name
        self.tags = tags

    @property
    def service(self) -> JobService:
        """Batch inference jobs."""
        from model_delivery.hooks.personalize import BatchInferenceJobs

        return BatchInferenceJobs()

    def build_request(self) -> dict[str, Any]:
        """Return CreateBatchInferenceJob's request without the name."""
        from model_delivery.hooks.personalize import as_tags

        self._check()
        source = {"path": self.input_uri, "kmsKeyArn": self.input_kms_key_arn}
        target = {"path": self.output_uri, "kmsKeyArn": self.output_kms_key_arn}
        config = _given(
            {
                "itemExplorationConfig": dict(self.item_exploration_config or {}),
                "rankingInfluence": self._influence(),
            }
        )
        theme = {"fieldsForThemeGeneration": {"itemName": self.theme_item_name}}
        return _given(
            {
                "solutionVersionArn": self.solution_version_arn,
                "filterArn": self.filter_arn,
                "numResults": self._results(),
                "jobInput": {"s3DataSource": _given(source)},
                "jobOutput": {"s3DataDestination": _given(target)},
                "roleArn": self.role_arn,
                "batchInferenceJobConfig": config,
                "tags": as_tags(self.tags or {}),
                "batchInferenceJobMode": self.mode,
                "themeGenerationConfig": theme if self.theme_item_name else None,
            }
        )

    def _results(self) -> int | None:
        return whole_number("num_results", self.num_results)

    def _check(self) -> None:
        if ":solution/" not in self.solution_version_arn:
            raise InvalidRequestError(
                f"solution_version_arn {self.solution_version_arn!r} is not the ARN of a solution "
                "version: arn:aws:personalize:<region>:<account>:solution/<name>/<version>"
            )
        for name, uri in (("input_uri", self.input_uri), ("output_uri", self.output_uri)):
            if not uri.startswith("s3://"):
                raise InvalidRequestError(f"{name} {uri!r} must begin with s3://")
        if not self.output_uri.endswith("/"):
            raise InvalidRequestError(f"output_uri {self.output_uri!r} must end with /: a folder")
        results = self._results()
        if results is not None and not 1 <= results <= MOST_RESULTS:
            raise InvalidRequestError(f"num_results is {results}: give 1 to {MOST_RESULTS}")
        if self.mode not in {None, BATCH_INFERENCE, THEME_GENERATION}:
            raise InvalidRequestError(
                f"mode {self.mode!r} is neither {BATCH_INFERENCE} nor {THEME_GENERATION}"
            )
        if (self.mode == THEME_GENERATION) != bool(self.theme_item_name):
            raise InvalidRequestError(f"give theme_item_name with mode {THEME_GENERATION}, only")
        if len(self.tags or {}) > MOST_TAGS:
            raise InvalidRequestError(f"{len(self.tags or {})} tags: a job has at most {MOST_TAGS}")

    def _influence(self) -> dict[str, float]:
        given: dict[str, float] = {}
        for name, weight in (self.ranking_influence or {}).items():
            found = number(f"ranking_influence {name}", weight)
            if name not in INFLUENCES or found is None or not 0 <= found <= 1:
                raise InvalidRequestError(
                    f"ranking_influence {name}={weight}: give {' and '.join(INFLUENCES)} a weight "
                    "of 0 to 1"
                )
            given[name] = found
        return given

    def page_url(self, handle: Handle) -> str:
        """Return the job's page in the AWS console or in localcloud."""
        _arn, _partition, _service, region, account, _resource = handle["arn"].split(":", 5)
        endpoint = self.client.meta.endpoint_url
        if is_aws(endpoint):
            return f"{console_url(endpoint, region, 'personalize')}#batch-inference-jobs"
        return f"{endpoint}/jobs/batch-inference/{account}/{region}/{handle['name']}"

    def lineage(self) -> Lineage:
        """Lines in, recommendations out."""
        made = batch_inference_result(self.ended)
        return Lineage([self.input_uri], [made["output_uri"]], made["job_arn"])

    def identity(self, handle: Handle) -> dict[str, str]:
        """Name and ARN."""
        return {"job_arn": handle["arn"], "job_name": handle["name"]}

    def result(self, description: JobDescription) -> BatchInferenceJobResult:
        """Name, ARN, status and the results' URI."""
        return batch_inference_result(description)


class ListBatchInferenceJobsOperator(AwsConnected):
    """Lists batch inference jobs: counts and the newest to XCom, all of them to storage.

    Source: Amazon Personalize API, ListBatchInferenceJobs.

    :param solution_version_arn: whose jobs. (default: all of the account and region)
    :param status: only jobs of this status.
    :param listing_uri: where all of them are written, a JSON line each.
    :param storage_conn_id: connection of an `s3://` listing_uri. (default: "aws_default")
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "solution_version_arn", "status", "listing_uri",
    )  # fmt: skip

    def __init__(
        self,
        *,
        solution_version_arn: str | None = None,
        status: str | None = None,
        listing_uri: str | None = None,
        storage_conn_id: str = "aws_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.solution_version_arn = solution_version_arn
        self.status = status
        self.listing_uri = listing_uri
        self.storage_conn_id = storage_conn_id

    @property
    def hook_path(self) -> str:
        """Path of Personalize's hook."""
        return "model_delivery.hooks.personalize.PersonalizeHook"

    @cached_property
    def _personalize(self) -> "PersonalizeHook":
        hook: PersonalizeHook = self.hook
        return hook

    def execute(self, context: Context) -> ListedBatchInferenceJobs:
        """Read every page."""
        jobs = [
            job
            for job in self._personalize.list_jobs(self.solution_version_arn or None)
            if not self.status or job["status"] == self.status
        ]
        if self.listing_uri:
            from model_delivery.hooks.storage import StorageHook

            StorageHook(aws_conn_id=self.storage_conn_id).write_stream(
                self.listing_uri, _lines(jobs)
            )
        return {
            "version": VERSION,
            "jobs": len(jobs),
            "statuses": dict(Counter(job["status"] for job in jobs)),
            "job_arns": [job["batchInferenceJobArn"] for job in jobs[:MOST_ARNS_IN_XCOM]],
            "listing_uri": self.listing_uri or "",
        }


class RegisterSolutionVersionOperator(AwsConnected):
    """Registers a recommender's bundle as a solution version with localcloud.

    Amazon Personalize trains solution versions itself and takes no model: there, give the ARN of
    one to `CreateBatchInferenceJobOperator`.

    :param solution_name: name of the solution.
    :param recipe: user-personalization, related-items or personalized-ranking.
    :param bundle_uri: `s3://` URI of the bundle.
    :param items_uri: `s3://` URI of a CSV of item attributes (ITEM_ID and more), for filters.
    :param dataset_group: group whose filters apply. (default: the solution's name)
    :param solution_version_arn: one that exists already, such as on AWS: nothing is registered
        then. (default: register)
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "solution_name", "recipe", "bundle_uri", "items_uri",
        "dataset_group", "solution_version_arn",
    )  # fmt: skip

    def __init__(
        self,
        *,
        solution_name: str,
        recipe: str,
        bundle_uri: str,
        items_uri: str | None = None,
        dataset_group: str | None = None,
        solution_version_arn: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.solution_name = solution_name
        self.recipe = recipe
        self.bundle_uri = bundle_uri
        self.items_uri = items_uri
        self.dataset_group = dataset_group
        self.solution_version_arn = solution_version_arn

    @property
    def hook_path(self) -> str:
        """Path of Personalize's hook."""
        return "model_delivery.hooks.personalize.PersonalizeHook"

    def execute(self, context: Context) -> SolutionVersionResult:
        """Register; the same again is the same version."""
        if self.solution_version_arn:
            self.log.info("%s exists already", self.solution_version_arn)
            return {
                "version": VERSION,
                "solution_version_arn": self.solution_version_arn,
                "bundle_uri": "",
            }
        given = {
            "solutionName": self.solution_name,
            "recipe": self.recipe,
            "bundleUri": self.bundle_uri,
            "itemsUri": self.items_uri,
            "datasetGroupName": self.dataset_group,
        }
        arn = self.hook.register_solution_version(_given(given))
        self.log.info("Registered %s as %s", self.bundle_uri, arn)
        return {"version": VERSION, "solution_version_arn": arn, "bundle_uri": self.bundle_uri}


def batch_inference_result(description: JobDescription) -> BatchInferenceJobResult:
    """Read a description as the XCom of operator and sensor."""
    detail = description.detail
    source = detail["jobInput"]["s3DataSource"]["path"]
    folder = detail["jobOutput"]["s3DataDestination"]["path"].rstrip("/")
    name = source.rpartition("/")[2]  # of a folder as input none: its objects have a result each
    return {
        "version": VERSION,
        "job_arn": description.handle["arn"],
        "job_name": description.handle["name"],
        "status": description.status,
        "solution_version_arn": description.handle["solution_version_arn"],
        "output_uri": f"{folder}/{name}.out" if name else f"{folder}/",
    }


def _lines(jobs: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
    for job in jobs:
        yield json.dumps(job, default=lambda moment: moment.isoformat()).encode() + b"\n"


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "", {}, [])}
