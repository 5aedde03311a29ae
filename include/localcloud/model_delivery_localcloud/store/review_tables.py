"""The tables of human review. Account and region are in every key that an AWS name needs."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Float, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from model_delivery_localcloud.store.tables import Base

_Serial = BigInteger().with_variant(Integer, "sqlite")


class UserGroup(Base):
    """A group that a portal user is in; work teams name groups."""

    __tablename__ = "user_groups"

    user: Mapped[str] = mapped_column(primary_key=True)
    group_name: Mapped[str] = mapped_column(primary_key=True)


class Workteam(Base):
    """A private work team; `request` is the CreateWorkteam input as it came, with its tags."""

    __tablename__ = "workteams"

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[dict[str, Any]]
    created_at: Mapped[int]
    modified_at: Mapped[int]


class WorkteamGroup(Base):
    """A group whose users are members of a work team."""

    __tablename__ = "workteam_groups"
    __table_args__ = (Index("workteam_groups_group", "group_name"),)

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    workteam: Mapped[str] = mapped_column(primary_key=True)
    group_name: Mapped[str] = mapped_column(primary_key=True)


class HumanTaskUi(Base):
    """A worker task template; `request` is the CreateHumanTaskUi input but for its content."""

    __tablename__ = "human_task_uis"

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[str]
    digest: Mapped[str]
    request: Mapped[dict[str, Any]]
    created_at: Mapped[int]


class FlowDefinition(Base):
    """A flow definition; `id` tells it from a later one of the same name.

    `request` is the CreateFlowDefinition input as it came, but for its tags, which may be changed.
    """

    __tablename__ = "flow_definitions"
    __table_args__ = (
        Index("flow_definitions_id", "id", unique=True),
        Index("flow_definitions_status", "status"),
    )

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str]
    workteam: Mapped[str]
    human_task_ui: Mapped[str]
    request: Mapped[dict[str, Any]]
    status: Mapped[str]
    failure_reason: Mapped[str] = mapped_column(default="")
    created_at: Mapped[int]


class HumanLoop(Base):
    """A human loop. Its input is in a table of its own, to keep this one's rows short.

    An id is never used again: pages, frames and events still name loops that are deleted.
    `queue` is the flow's id while a slot is free, else null: a queue is an index range.
    `due_at` is when the worker process must act: at the end of its availability while it is open,
    at once (or when to try again) while its output is to be written, null once it is done.
    """

    __tablename__ = "human_loops"
    __table_args__ = (
        CheckConstraint("free_slots >= 0", name="human_loops_free_slots"),
        CheckConstraint("answers BETWEEN 0 AND task_count", name="human_loops_answers"),
        Index("human_loops_name", "account", "region", "name", unique=True),
        Index("human_loops_created", "flow_id", "created_at", "id"),
        Index("human_loops_queue", "queue", "priority", "id"),
        Index("human_loops_due", "due_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    account: Mapped[str]
    region: Mapped[str]
    name: Mapped[str]
    flow_id: Mapped[str]
    flow_name: Mapped[str]
    status: Mapped[str]
    phase: Mapped[str]
    queue: Mapped[str | None]
    priority: Mapped[float] = mapped_column(Float(53))
    task_count: Mapped[int]
    free_slots: Mapped[int]
    answers: Mapped[int] = mapped_column(default=0)
    input_digest: Mapped[str]
    model_label: Mapped[str | None] = mapped_column(default=None)
    confidence: Mapped[float | None] = mapped_column(Float(53), default=None)
    known_answer: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[int]
    modified_at: Mapped[int]
    expires_at: Mapped[int]
    due_at: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(default=0)
    answered_at: Mapped[int | None] = mapped_column(default=None)
    output_uri: Mapped[str] = mapped_column(default="")
    failure_code: Mapped[str] = mapped_column(default="")
    failure_reason: Mapped[str] = mapped_column(default="")


class HumanLoopInput(Base):
    """What a human loop is about: the InputContent and DataAttributes of StartHumanLoop."""

    __tablename__ = "human_loop_inputs"

    loop_id: Mapped[int] = mapped_column(
        _Serial, ForeignKey("human_loops.id", ondelete="CASCADE"), primary_key=True
    )
    content: Mapped[str]
    attributes: Mapped[dict[str, Any]]


class Assignment(Base):
    """One reviewer's part in a human loop: at most one, by its key.

    A slot is taken while the state is `working` (until `lease_until`, null otherwise) or
    `answered`. A lapsed or skipped assignment keeps its draft. One that is `excluded` never takes
    a slot. `turn` orders a reviewer's answers in a flow as they came, whatever the clock did.
    """

    __tablename__ = "review_assignments"
    __table_args__ = (
        Index("review_assignments_lease", "lease_until"),
        Index("review_assignments_worker", "worker", "flow_id", "state", "turn"),
        Index("review_assignments_flow", "flow_id", "submitted_at"),
    )

    loop_id: Mapped[int] = mapped_column(
        _Serial, ForeignKey("human_loops.id", ondelete="CASCADE"), primary_key=True
    )
    worker: Mapped[str] = mapped_column(primary_key=True)
    flow_id: Mapped[str]
    state: Mapped[str]
    accepted_at: Mapped[int]
    lease_until: Mapped[int | None]
    submitted_at: Mapped[int | None] = mapped_column(default=None)
    turn: Mapped[int | None] = mapped_column(default=None)
    spent_ms: Mapped[int] = mapped_column(default=0)
    draft: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    answer: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    label: Mapped[str | None] = mapped_column(default=None)


class WebhookEvent(Base):
    """A change of a human loop's status that a webhook has not confirmed yet."""

    __tablename__ = "webhook_events"
    __table_args__ = (Index("webhook_events_due", "due_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]]
    created_at: Mapped[int]
    due_at: Mapped[int]
    attempts: Mapped[int] = mapped_column(default=0)
