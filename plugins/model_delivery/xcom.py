"""What each operator leaves in XCom: small, versioned, without credentials.

`version` is 1 in all of them; a field is added without a new version, never removed or changed.
"""

from typing import TypedDict

VERSION = 1


class CompilationJobResult(TypedDict):
    """Of `CreateCompilationJobOperator`, `StopCompilationJobOperator` and `CompilationJobSensor`.

    `output_uri` is the artifact and `digest` the service's digest of it, `sha256:…`; both are empty
    while there is none.
    """

    version: int
    job_arn: str
    job_name: str
    status: str
    output_uri: str
    digest: str


class CompilationJobListing(TypedDict):
    """Of `ListCompilationJobsOperator`: the first 100 names; every summary lies at `output_uri`."""

    version: int
    count: int
    job_names: list[str]
    output_uri: str


class DeletedCompilationJob(TypedDict):
    """Of `DeleteCompilationJobOperator`; `deleted` is false where there was no such job."""

    version: int
    job_name: str
    deleted: bool


class BundledModel(TypedDict):
    """Of `BundleModelOperator`; `wrapped` is false where the artifact was a bundle already."""

    version: int
    output_uri: str
    digest: str
    runtime: str
    wrapped: bool


class BatchInferenceJobResult(TypedDict):
    """Of `CreateBatchInferenceJobOperator` and `BatchInferenceJobSensor`; lines at `output_uri`."""

    version: int
    job_arn: str
    job_name: str
    status: str
    solution_version_arn: str
    output_uri: str


class ListedBatchInferenceJobs(TypedDict):
    """Of `ListBatchInferenceJobsOperator`: how many, by status, and the first 100 ARNs.

    All of them lie at `listing_uri`, where one was asked for.
    """

    version: int
    jobs: int
    statuses: dict[str, int]
    job_arns: list[str]
    listing_uri: str


class SolutionVersionResult(TypedDict):
    """Of `RegisterSolutionVersionOperator`."""

    version: int
    solution_version_arn: str
    bundle_uri: str


class DeploymentResult(TypedDict):
    """Of `CreateDeploymentOperator` and `DeploymentSensor`."""

    version: int
    job_id: str
    job_name: str
    status: str
    thing_name: str


class ComponentVersionResult(TypedDict):
    """Of `CreateComponentVersionOperator`."""

    version: int
    component_arn: str
    component_name: str
    component_version: str
    bundle_uri: str
    digest: str


class PlannedShard(TypedDict):
    """One of the list of `PlanShardsOperator`: what a mapped `BatchInferenceOperator` takes.

    A list, since Airflow maps tasks over a whole `return_value` only. `shards` is how many it has.
    """

    version: int
    index: int
    uri: str
    start: int
    end: int
    input_format: str
    etag: str
    shards: int


class ShardOutput(TypedDict):
    """Of one mapped `BatchInferenceOperator`; `output_uri` is the folder of the shard's parts."""

    version: int
    shard: dict[str, object]
    output_uri: str
    model_digest: str
    records: int
    ok: int
    errors: int
    skipped: int


class MergedResults(TypedDict):
    """Of `MergeResultsOperator` and `RetryFailedRecordsOperator`."""

    version: int
    output_uri: str
    errors_uri: str
    manifest_uri: str
    records: int
    ok: int
    errors: int
    skipped: int


class TrainedRecommender(TypedDict):
    """Of `TrainRecommenderOperator`: where its three objects lie, and how much it was."""

    version: int
    bundle_uri: str
    input_uri: str
    split_uri: str
    users: int
    items: int
    interactions: int
    held_out: int


class RecommendationReport(TypedDict):
    """Of `RecommendationReportOperator`; all figures lie at `quality_uri`."""

    version: int
    report_uri: str
    quality_uri: str
    users: int
    precision_at_10: float
    baseline_at_10: float
    coverage_at_10: float
    errors: int


class GateVerdict(TypedDict):
    """Of `QualityGateOperator`; only a passed gate leaves one. Details lie at `evaluation_uri`.

    `accuracy` is None where it is a review's and no random sample tells of what nobody reviewed.
    """

    version: int
    records: int
    errors: int
    accuracy: float | None
    interval_low: float
    interval_high: float
    min_accuracy: float
    evaluation_uri: str


class EdgeInferenceResult(TypedDict):
    """Of `EdgeInferenceOperator`."""

    version: int
    model: str
    digest: str
    records: int
    agreed: int


class CancelledDeployment(TypedDict):
    """Of `CancelDeploymentOperator`; `cancelled` is false where it had ended already."""

    version: int
    job_id: str
    status: str
    target_arn: str
    cancelled: bool


class EdgeRolloutResult(TypedDict):
    """Of `EdgeRolloutOperator`, `RollbackOperator` and `RetireModelOperator`.

    Only a rollout that succeeded leaves one; `rollout_id` is under `rollout` from the beginning.
    `offline` counts devices that were not done when the rollout ended.
    """

    version: int
    rollout_id: str
    state: str
    component_name: str
    component_version: str
    digest: str
    devices: int
    succeeded: int
    failed: int
    offline: int


class CopiedObjects(TypedDict):
    """Of `CopyObjectsOperator`."""

    version: int
    objects: int
    bytes: int
    output_uris: list[str]


class DeliveryReport(TypedDict):
    """Of `DeliveryReportOperator`."""

    version: int
    report_uri: str


class ComparisonReport(TypedDict):
    """Of `CompareCompilationsOperator`: how many targets were compiled, and how many were not."""

    version: int
    report_uri: str
    table_uri: str
    compiled: int
    failed: int


class HumanTaskUiResult(TypedDict):
    """Of `CreateHumanTaskUiOperator` and `DescribeHumanTaskUiOperator`."""

    version: int
    human_task_ui_arn: str
    human_task_ui_name: str
    status: str
    content_sha256: str


class RenderedUiTemplate(TypedDict):
    """Of `RenderUiTemplateOperator`: where the rendered page lies."""

    version: int
    output_uri: str


class FlowDefinitionResult(TypedDict):
    """Of the operators of flow definitions and `FlowDefinitionSensor`.

    `output_uri` is the prefix of the answers.
    """

    version: int
    flow_definition_arn: str
    flow_definition_name: str
    status: str
    output_uri: str


class ReviewResourceListing(TypedDict):
    """Of the operators that list flow definitions and human task UIs: the first 100 names."""

    version: int
    count: int
    names: list[str]
    output_uri: str


class DeletedReviewResource(TypedDict):
    """Of the operators that delete them; `deleted` is false where there was no such thing."""

    version: int
    name: str
    deleted: bool


class StartedHumanLoops(TypedDict):
    """Of `StartHumanLoopsOperator`: a batch, whose loops are numbered under a prefix.

    `manifest_uri` has a line for each: its loop, its item and the digest of its input.
    """

    version: int
    flow_definition_arn: str
    loop_prefix: str
    loops: int
    created_after: str
    manifest_uri: str


class EndedHumanLoops(TypedDict):
    """Of `HumanLoopSensor`: how many loops ended with each status."""

    version: int
    flow_definition_arn: str
    loops: int
    statuses: dict[str, int]


class StoppedHumanLoops(TypedDict):
    """Of `StopHumanLoopsOperator`: how many were still open and were asked to stop."""

    version: int
    flow_definition_arn: str
    loops: int
    stopped: int


class HumanReviewResult(TypedDict):
    """Of `HumanReviewOperator`; all figures lie at `report_uri`, the data set at `output_uri`.

    The accuracies and `unreviewed_errors` come with their 95 % intervals, as [low, high]; they are
    None where no random sample tells of what nobody reviewed.
    `agreement` is the share of equal answers in the first round, -1 where no item has two.
    """

    version: int
    output_uri: str
    report_uri: str
    flow_definition_arn: str
    results: int
    loops: int
    answers: int
    confirmed: int
    corrected: int
    undecided: int
    unreviewed: int
    agreement: float
    model_accuracy: float | None
    model_accuracy_interval: list[float]
    corrected_accuracy: float | None
    corrected_accuracy_interval: list[float]
    unreviewed_errors: float | None
    unreviewed_errors_interval: list[float]


class ReadDocuments(TypedDict):
    """Of `ReadDocumentsOperator`; a line for each document at `output_uri`."""

    version: int
    output_uri: str
    documents: int
    errors: int


class CorrectedForms(TypedDict):
    """Of `WriteFormsOperator`; a form for each document at `output_uri`."""

    version: int
    output_uri: str
    documents: int
    fields: int
    corrected: int
    undecided: int
