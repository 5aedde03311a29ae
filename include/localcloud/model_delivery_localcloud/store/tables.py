"""The tables. Account and region are in every key of a regional resource."""

import re
import uuid
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Dialect, Index, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class StorableText(TypeDecorator[str]):
    """Text, with U+FFFD for what no database stores: halves of surrogate pairs; on Postgres NUL.

    Reasons and logs tell what a user or a model's file named so. A commit that fails for it would
    be tried again and again, and end as a worker that was lost.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return what is stored."""
        if value is None or (value.isascii() and "\0" not in value):  # most are, at no cost
            return value
        return UNSTORABLE.sub("\ufffd", value)


class Base(DeclarativeBase):
    """Base of the tables; times are milliseconds since 1970 UTC (`clock.py`)."""

    type_annotation_map: ClassVar = {
        dict[str, Any]: JSON,
        list[Any]: JSON,
        str: StorableText,
        int: BigInteger,
    }


class AccessKey(Base):
    """A key that may sign requests; `sealed_secret` is encrypted (`store/sealing.py`)."""

    __tablename__ = "access_keys"

    access_key_id: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]
    sealed_secret: Mapped[str]
    regions: Mapped[list[Any]]
    created_at: Mapped[int]


class User(Base):
    """A person who may sign in to the portal; `password_hash` is argon2id with its own salt.

    `worker_id` is what outputs call the person: it says nothing about them and never changes.
    """

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(primary_key=True)
    password_hash: Mapped[str]
    created_at: Mapped[int]
    role: Mapped[str] = mapped_column(server_default="admin")
    worker_id: Mapped[str] = mapped_column(server_default="")


class SignInFailure(Base):
    """A refused sign-in, kept for as long as it throttles."""

    __tablename__ = "sign_in_failures"
    __table_args__ = (
        Index("sign_in_failures_name_at", "name", "at"),
        Index("sign_in_failures_address_at", "address", "at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    address: Mapped[str] = mapped_column(server_default="")
    at: Mapped[int]


class PortalSession(Base):
    """A person who is signed in; `id` is a digest of what their cookie holds."""

    __tablename__ = "portal_sessions"
    __table_args__ = (Index("portal_sessions_user", "user"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user: Mapped[str]
    expires_at: Mapped[int]


class Job(Base):
    """A piece of durable work: queued, leased by one worker at a time, finished once.

    `fence` grows with every lease, so that a worker that lost its lease cannot commit.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("jobs_state_created", "state", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    account: Mapped[str]
    region: Mapped[str]
    name: Mapped[str]
    state: Mapped[str]
    created_at: Mapped[int]
    attempts: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(default=None)
    lease_until: Mapped[int | None] = mapped_column(default=None)
    stop_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[str] = mapped_column(default="", server_default="")


class CompilationJob(Base):
    """A SageMaker compilation job.

    `request` is the CreateCompilationJob input as it came, but for its tags, which may be changed.
    """

    __tablename__ = "compilation_jobs"
    __table_args__ = (
        Index("compilation_jobs_created", "account", "region", "created_at", "name"),
        Index("compilation_jobs_modified", "account", "region", "modified_at"),
    )

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    request: Mapped[dict[str, Any]]
    target: Mapped[str]
    output_uri: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[int]
    modified_at: Mapped[int]
    started_at: Mapped[int | None] = mapped_column(default=None)
    ended_at: Mapped[int | None] = mapped_column(default=None)
    failure_reason: Mapped[str] = mapped_column(default="")
    artifact_digest: Mapped[str | None] = mapped_column(default=None)
    manifest: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    log: Mapped[str] = mapped_column(default="")


class SolutionVersion(Base):
    """A Personalize solution version, registered from a recommender's bundle.

    `items_uri` is a CSV of item attributes for filters; `item_fields` its columns, in capitals.
    """

    __tablename__ = "solution_versions"
    __table_args__ = (Index("solution_versions_group", "account", "region", "dataset_group"),)

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    solution: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    dataset_group: Mapped[str]
    recipe: Mapped[str]
    bundle_uri: Mapped[str]
    bundle_etag: Mapped[str]
    bundle_digest: Mapped[str]
    items_uri: Mapped[str | None]
    items_etag: Mapped[str | None]
    item_fields: Mapped[list[Any]]
    created_at: Mapped[int]


class RecommendationFilter(Base):
    """A Personalize filter of a dataset group."""

    __tablename__ = "recommendation_filters"
    __table_args__ = (Index("recommendation_filters_created", "account", "region", "created_at"),)

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    dataset_group: Mapped[str]
    expression: Mapped[str]
    tags: Mapped[dict[str, Any]]
    created_at: Mapped[int]


class BatchInferenceJob(Base):
    """A Personalize batch inference job; `request` is the input of its Create as it came."""

    __tablename__ = "batch_inference_jobs"
    __table_args__ = (
        Index("batch_inference_jobs_created", "account", "region", "created_at", "name"),
        Index("batch_inference_jobs_version", "account", "region", "solution_version_arn"),
    )

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    solution_version_arn: Mapped[str]
    request: Mapped[dict[str, Any]]
    work: Mapped[dict[str, Any]]
    tags: Mapped[dict[str, Any]]
    status: Mapped[str]
    created_at: Mapped[int]
    modified_at: Mapped[int]
    started_at: Mapped[int | None] = mapped_column(default=None)
    ended_at: Mapped[int | None] = mapped_column(default=None)
    failure_reason: Mapped[str] = mapped_column(default="")
    counts: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    log: Mapped[str] = mapped_column(default="")


class ComponentVersion(Base):
    """A Greengrass component version with its one artifact, the bundle."""

    __tablename__ = "component_versions"

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    recipe: Mapped[dict[str, Any]]
    artifact_uri: Mapped[str]
    artifact_digest: Mapped[str]
    artifact_size: Mapped[int]
    artifact_etag: Mapped[str]
    tags: Mapped[dict[str, Any]]
    created_at: Mapped[int]


class Deployment(Base):
    """A Greengrass deployment to one target; a newer one makes it INACTIVE.

    `thing` is empty where the target is a group. `slot` is the target whose place it takes among a
    device's deployments: its parent target, or its own. `due_at` is when a step of it is to be done
    next, None where nothing is; a step in hand moves it on, under `fence`. `paced_at` is how far
    its rate is used up. `rollout` is the value of its tag of that name.
    """

    __tablename__ = "deployments"
    __table_args__ = (
        Index("deployments_target", "account", "region", "target_arn", "revision"),
        Index("deployments_created", "account", "region", "created_at", "id"),
        Index("deployments_rollout", "account", "region", "rollout"),
        Index("deployments_due", "due_at"),
    )

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    target_arn: Mapped[str]
    thing: Mapped[str]
    name: Mapped[str]
    revision: Mapped[int]
    latest: Mapped[bool]
    status: Mapped[str]
    request: Mapped[dict[str, Any]]
    created_at: Mapped[int]
    modified_at: Mapped[int]
    slot: Mapped[str]
    rollout: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    due_at: Mapped[int | None] = mapped_column(default=None)
    fence: Mapped[int] = mapped_column(default=0)
    paced_at: Mapped[int | None] = mapped_column(default=None)


class ClientToken(Base):
    """An idempotency token of a create call, with the digest of its request and its answer."""

    __tablename__ = "client_tokens"

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    operation: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    request_digest: Mapped[str]
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[int]


class Device(Base):
    """An IoT thing, which is a core device once it has registered.

    It is made by CreateThing or with its first registration token. `version` grows with every
    change of its attributes; `tags` are the core device's.
    """

    __tablename__ = "devices"
    __table_args__ = (Index("devices_key_hash", "key_hash", unique=True),)

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    thing: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[int]
    generation: Mapped[int] = mapped_column(default=0)
    key_hash: Mapped[str | None] = mapped_column(default=None)
    registered_at: Mapped[int | None] = mapped_column(default=None)
    architecture: Mapped[str | None] = mapped_column(default=None)
    platform: Mapped[str | None] = mapped_column(default=None)
    agent_version: Mapped[str | None] = mapped_column(default=None)
    endpoint: Mapped[str | None] = mapped_column(default=None)
    reported_at: Mapped[int | None] = mapped_column(default=None)
    reported_generation: Mapped[int] = mapped_column(default=0)
    reported_status: Mapped[str | None] = mapped_column(default=None)
    reported_error: Mapped[str | None] = mapped_column(default=None)
    public_key: Mapped[str | None] = mapped_column(default=None)
    details: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    running: Mapped[list[Any]] = mapped_column(default=list)
    thing_id: Mapped[str] = mapped_column(default=lambda: str(uuid.uuid4()))
    attributes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    version: Mapped[int] = mapped_column(default=1)
    tags: Mapped[dict[str, Any]] = mapped_column(default=dict)


class DeviceToken(Base):
    """A one-time registration token, kept as its SHA-256."""

    __tablename__ = "device_tokens"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]
    region: Mapped[str]
    thing: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int]
    used_at: Mapped[int | None] = mapped_column(default=None)


class DesiredState(Base):
    """What one device shall run, by generation, and what became of it there."""

    __tablename__ = "desired_states"

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    thing: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    deployment_id: Mapped[str]
    components: Mapped[list[Any]]
    status: Mapped[str]
    reason: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[int]
    modified_at: Mapped[int]


class DeviceArtifact(Base):
    """An artifact that was deployed to a device, which it may therefore download."""

    __tablename__ = "device_artifacts"

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    thing: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    uri: Mapped[str]
    etag: Mapped[str]
    size: Mapped[int]
