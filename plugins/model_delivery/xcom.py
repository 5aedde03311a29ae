"""What each operator leaves in XCom: small, versioned, without credentials.

`version` is 1 in all of them; a field is added without a new version, never removed or changed.
"""

from typing import TypedDict

VERSION = 1


class CompilationJobResult(TypedDict):
    """Of `CreateCompilationJobOperator`, `StopCompilationJobOperator` and `CompilationJobSensor`.

    `output_uri` is the artifact, empty while there is none.
    """

    version: int
    job_arn: str
    job_name: str
    status: str
    output_uri: str


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

    A list, since Airflow maps tasks over a whole `return_value` only.
    """

    version: int
    index: int
    uri: str
    start: int
    end: int


class ShardOutput(TypedDict):
    """Of one mapped `BatchInferenceOperator`."""

    version: int
    shard: dict[str, object]
    output_uri: str
    model_digest: str
    records: int
    ok: int
    errors: int


class MergedResults(TypedDict):
    """Of `MergeResultsOperator`."""

    version: int
    output_uri: str
    errors_uri: str
    manifest_uri: str
    records: int
    ok: int
    errors: int


class GateVerdict(TypedDict):
    """Of `QualityGateOperator`; only a passed gate leaves one. Details lie at `evaluation_uri`."""

    version: int
    records: int
    errors: int
    accuracy: float
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
