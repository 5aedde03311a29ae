"""Fleets in the store: what a migration keeps, two hands on one deployment, what a look costs."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from alembic import command
from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import LeaseLost, ServiceError
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.greengrass_deployments import Deployments
from model_delivery_localcloud.services.iot_members import Memberships
from model_delivery_localcloud.store import (
    deployments,
    devices,
    fleet_deployments,
    things,
)
from model_delivery_localcloud.store.database import Database, alembic_config
from model_delivery_localcloud.store.fleet_tables import Execution
from model_delivery_localcloud.store.tables import ComponentVersion, Deployment, Device
from model_delivery_localcloud.workers.deployments import DeploymentKeeper
from sqlalchemy import event, select, text

from tests.postgres import new_database

SCOPE = ("000000000000", "eu-west-1")
THING = "arn:aws:iot:eu-west-1:000000000000:thing/cam"
SAID = ("IN_PROGRESS", "SUCCEEDED", "FAILED")
GROUP = "arn:aws:iot:eu-west-1:000000000000:thinggroup/all"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    if request.param == "postgres":
        url = new_database(request.getfixturevalue("cluster"))
    built = Database(url)
    yield built
    built.close()


def fleet_of(store: Database, number: int, **request: Any) -> str:
    """Make a group of things and a deployment to it, of which no step was taken; return its id."""
    with store.write() as session:
        values = {"description": None, "attributes": {}, "tags": {}}
        things.create_group(session, SCOPE, "all", None, values)
        for index in range(number):
            thing = f"cam-{index:04d}"
            things.create_thing(session, SCOPE, thing, {})
            things.add_member(session, SCOPE, "all", thing)
        wanted = {"targetArn": GROUP, "components": {}, **request}
        return deployments.create_deployment(session, SCOPE, "", wanted).id


def executions(store: Database, deployment_id: str) -> int:
    with store.read() as session:
        return fleet_deployments.counts_of(session, SCOPE, deployment_id).total()


def test_a_migration_keeps_what_devices_have(store: Database) -> None:
    with store.engine.connect() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0007")
        connection.commit()
    with store.write() as session:
        scope = "'000000000000', 'eu-west-1'"
        session.execute(text(
            "INSERT INTO devices (account, region, thing, created_at, generation, "
            f"reported_generation, running) VALUES ({scope}, 'cam', 1, 3, 3, '[]')"
        ))  # fmt: skip
        for number, status in ((1, "INACTIVE"), (2, "FAILED"), (3, "ACTIVE")):
            session.execute(
                text(
                    "INSERT INTO deployments (account, region, id, target_arn, thing, name, "
                    "revision, latest, status, request, created_at, modified_at) VALUES "
                    f"({scope}, :id, :arn, 'cam', '', {number}, :latest, '{status}', :request, "
                    f"{number}, {number})"
                ),
                {
                    "id": f"d{number}", "arn": THING, "latest": number == 3,
                    "request": '{"components": {"digits": {"componentVersion": "1.0.0"}}}',
                },
            )  # fmt: skip
        for number, status in ((1, "SUCCEEDED"), (2, "FAILED"), (3, "QUEUED")):
            session.execute(text(
                "INSERT INTO desired_states (account, region, thing, generation, deployment_id, "
                f"components, status, reason, created_at, modified_at) VALUES ({scope}, 'cam', "
                f"{number}, 'd{number}', '[]', '{status}', 'why', 1, 1)"
            ))  # fmt: skip
    store.migrate()
    with store.read() as session:
        device = session.get_one(Device, (*SCOPE, "cam"))
        found = {each.deployment_id: each for each, _ in devices.list_executions(session, device)}
    assert (device.attributes, device.version, len(device.thing_id)) == ({}, 1, 36)
    assert [(found[each].status, found[each].applied) for each in ("d1", "d2", "d3")] == [
        ("SUCCEEDED", True), ("FAILED", False), ("QUEUED", False),
    ]  # fmt: skip
    assert {each.slot for each in found.values()} == {THING}
    with store.write() as session:
        locked = devices.lock_device(session, *SCOPE, "cam")
        assert locked is not None
        deployments.record_report(session, locked, said(3, "SUCCEEDED"))
    with store.read() as session:
        assert session.get_one(Deployment, (*SCOPE, "d3")).status == "COMPLETED"
        assert not session.get_one(Execution, (*SCOPE, "cam", "d1")).applied


def test_a_holder_that_lost_its_claim_commits_nothing(store: Database) -> None:
    store.migrate()
    deployment_id = fleet_of(store, 3)
    first = fleet_deployments._claim(store, SCOPE, deployment_id)
    assert first is not None
    assert fleet_deployments._claim(store, SCOPE, deployment_id) is None
    with store.write() as session:  # its claim has run out
        session.get_one(Deployment, (*SCOPE, deployment_id)).due_at = now_ms()
    second = fleet_deployments._claim(store, SCOPE, deployment_id)
    assert second is not None
    with pytest.raises(LeaseLost):
        fleet_deployments._step(store, first)
    assert executions(store, deployment_id) == 0
    assert fleet_deployments._step(store, second) == 3
    assert executions(store, deployment_id) == 3


def test_who_joins_while_a_step_is_taken_is_not_forgotten(store: Database) -> None:
    store.migrate()
    deployment_id = fleet_of(store, 1)
    claim = fleet_deployments._claim(store, SCOPE, deployment_id)
    assert claim is not None
    with store.write() as session:
        things.create_thing(session, SCOPE, "late", {})
    with store.write() as session:  # as AddThingToThingGroup does, in the middle of the step
        assert fleet_deployments.joined(session, SCOPE, "all") == [deployment_id]
    fleet_deployments._step(store, claim)
    with store.write() as session:
        things.add_member(session, SCOPE, "all", "late")
    assert fleet_deployments.take_up(store, SCOPE, deployment_id) == 1
    assert executions(store, deployment_id) == 2


def test_a_fleet_of_many_is_reached_in_batches_and_then_costs_nothing(database: Database) -> None:
    deployment_id = fleet_of(database, 100)
    steps = 0
    while fleet_deployments.take_up(database, SCOPE, deployment_id):
        steps += 1
        assert steps < 10
    assert executions(database, deployment_id) == 100
    statements: list[str] = []
    event.listen(
        database.engine, "before_cursor_execute", lambda *given: statements.append(given[2])
    )
    with database.read() as session:
        assert fleet_deployments.due(session, now_ms(), 10) == []
        assert fleet_deployments.late(session, now_ms(), 10) == []
    looks = [each for each in statements if each.startswith("SELECT")]
    assert len(looks) == 2
    with database.engine.connect() as connection:
        for statement in looks:
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {statement}", (1,) * statement.count("?")
            )
            assert " USING INDEX " in str(plan.all())


def test_two_deployments_at_once_have_an_order(store: Database) -> None:
    store.migrate()
    first = fleet_of(store, 1)
    with store.write() as session:
        things.lock_group(session, SCOPE, "all")
        wanted = {"targetArn": GROUP, "components": {}}
        second = deployments.create_deployment(session, SCOPE, "", wanted)
    with store.read() as session:
        found = session.scalars(select(Deployment).order_by(Deployment.revision)).all()
    assert [(each.id, each.latest, each.status) for each in found] == [
        (first, False, "INACTIVE"), (second.id, True, "ACTIVE"),
    ]  # fmt: skip
    assert found[0].created_at < found[1].created_at


class Hands:
    """Those who work on one fleet: who deploys, who moves things about, devices, keepers."""

    def __init__(self, store: Database, names: list[str]) -> None:
        self.store = store
        self.names = names
        self.handlers = {**Deployments(store).handlers(), **Memberships(store).handlers()}
        self.keeper = DeploymentKeeper(store)

    def call(self, operation: str, **params: Any) -> Any:
        return self.handlers[operation](Call(Caller(*SCOPE, "key"), operation, params))

    def deploy(self, version: str) -> str:
        wanted = {"digits": {"componentVersion": version}}
        made = self.call("CreateDeployment", targetArn=GROUP, components=wanted)
        return str(made["deploymentId"])

    def do_something(self, random: Random) -> None:
        match random.randrange(6):
            case 0:
                made = self.deploy(random.choice(["1.0.0", "2.0.0"]))
                if random.random() < 0.3:
                    with suppress(ServiceError):  # a newer one may be there already
                        self.call("CancelDeployment", deploymentId=made)
            case 1:
                operation = random.choice(["AddThingToThingGroup", "RemoveThingFromThingGroup"])
                self.call(operation, thingGroupName="all", thingName=random.choice(self.names))
            case 2:
                self.keeper.keep()
            case _:
                self.tell(random.choice(self.names), random.choice(SAID))

    def tell(self, thing: str, status: str) -> list[str]:
        """Let a device say how it goes; return the versions that it is to have then."""
        with self.store.write() as session:
            device = devices.lock_device(session, *SCOPE, thing)
            assert device is not None
            deployments.record_report(session, device, said(device.generation, status))
            state = devices.newest_desired(session, device)
            return [each["version"] for each in state.components] if state else []

    def work(self, seed: int) -> None:
        random = Random(seed)
        for _ in range(40):
            self.do_something(random)


def test_many_hands_at_once_lock_nobody_out_and_lose_nothing(store: Database) -> None:
    store.migrate()
    first = fleet_of(store, 12)
    with store.write() as session:
        session.add_all(component_version("digits", version) for version in ("1.0.0", "2.0.0"))
    hands = Hands(store, [f"cam-{index:04d}" for index in range(12)])
    with ThreadPoolExecutor(6) as threads:
        for each in [threads.submit(hands.work, seed) for seed in range(6)]:
            each.result()
    for name in hands.names:
        hands.call("AddThingToThingGroup", thingGroupName="all", thingName=name)
    hands.deploy("2.0.0")
    deadline = time.monotonic() + 60
    while any([hands.tell(name, "SUCCEEDED") != ["2.0.0"] for name in hands.names]):
        assert time.monotonic() < deadline
        hands.keeper.keep()
    for name in hands.names:
        hands.tell(name, "SUCCEEDED")
    with store.read() as session:
        assert session.get_one(Deployment, (*SCOPE, first)).status in ("INACTIVE", "CANCELED")
        open_ones = select(Execution).where(Execution.status.in_(devices.OPEN))
        assert session.scalars(open_ones).all() == []


def said(generation: int, status: str) -> dict[str, Any]:
    return {"generation": generation, "status": status, "error": None, "running": [],
            "agent_version": "1", "endpoint": None}  # fmt: skip


def component_version(name: str, version: str) -> ComponentVersion:
    recipe = {
        "RecipeFormatVersion": "2020-01-25", "ComponentName": name, "ComponentVersion": version,
        "Manifests": [{"Artifacts": [{"Uri": "s3://bucket/key"}]}],
    }  # fmt: skip
    return ComponentVersion(
        account=SCOPE[0], region=SCOPE[1], name=name, version=version, recipe=recipe,
        artifact_uri="s3://bucket/key", artifact_digest="sha256:00", artifact_size=1,
        artifact_etag="e", tags={}, created_at=1,
    )  # fmt: skip
