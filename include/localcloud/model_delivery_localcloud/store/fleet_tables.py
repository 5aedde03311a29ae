"""The tables of fleets: thing groups, who is in them, and what deployments came to on devices."""

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from model_delivery_localcloud.store.tables import Base


class ThingGroup(Base):
    """An IoT thing group; `version` grows with every change of its properties."""

    __tablename__ = "thing_groups"
    __table_args__ = (Index("thing_groups_parent", "account", "region", "parent"),)

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str]
    parent: Mapped[str | None]
    description: Mapped[str | None]
    attributes: Mapped[dict[str, Any]]
    tags: Mapped[dict[str, Any]]
    version: Mapped[int]
    created_at: Mapped[int]
    modified_at: Mapped[int]


class ThingGroupMember(Base):
    """A thing that was added to a group itself, not to a child of it."""

    __tablename__ = "thing_group_members"
    __table_args__ = (Index("thing_group_members_thing", "account", "region", "thing"),)

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    group_name: Mapped[str] = mapped_column(primary_key=True)
    thing: Mapped[str] = mapped_column(primary_key=True)


class Execution(Base):
    """What a deployment came to on one device.

    `slot` is the target whose place it takes among the device's deployments. `generation` is the
    desired state it was sent with, 0 before that. `applied` tells that the device has its
    components: of a slot's executions one at most. `deadline` is there while one runs.
    """

    __tablename__ = "deployment_executions"
    __table_args__ = (
        Index(
            "deployment_executions_deployment",
            "account", "region", "deployment_id", "status", "created_at",
        ),
        Index("deployment_executions_slot", "account", "region", "slot"),
        Index("deployment_executions_deadline", "deadline"),
    )  # fmt: skip

    account: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    thing: Mapped[str] = mapped_column(primary_key=True)
    deployment_id: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[str]
    deployed_at: Mapped[int]
    generation: Mapped[int] = mapped_column(default=0)
    status: Mapped[str]
    reason: Mapped[str | None] = mapped_column(default=None)
    error_code: Mapped[str | None] = mapped_column(default=None)
    applied: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int]
    modified_at: Mapped[int]
    deadline: Mapped[int | None] = mapped_column(default=None)
