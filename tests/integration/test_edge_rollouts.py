"""Rollouts by the operators over a real localcloud: stages, gates, wishes, kills."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk.exceptions import TaskDeferred
from model_delivery.exceptions import InvalidRequestError, JobMissingError, RolloutStoppedError
from model_delivery.hooks.edge import GreengrassV2Hook, IotHook
from model_delivery.operators.edge import CancelDeploymentOperator
from model_delivery.operators.edge_rollout import (
    EdgeRolloutOperator,
    RetireModelOperator,
    RollbackOperator,
)
from model_delivery.triggers.edge_rollout import RolloutTrigger

from stack.airflow import aws_connection
from stack.credentials import ACCOUNT, REGION
from stack.localcloud import LocalCloud
from stack.object_store import BUCKET
from stack.ports import free_ports
from tests.edge_device import API_TOKEN, Device, load, scale_bundle
from tests.integration.conftest import S3
from tests.wire_fleet import (
    BAD,
    BROKEN_LATER,
    BUNDLE,
    GOOD,
    SILENT,
    WireFleet,
    make_component,
    thing_arn,
)


@pytest.fixture(scope="module")
def cloud(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    local = LocalCloud(
        tmp_path_factory.mktemp("localcloud"), s3.credentials, free_ports(1)[0], s3.port
    )
    local.prepare()
    before = dict(os.environ)
    url = f"http://127.0.0.1:{s3.port}"
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(
        aws_connection(s3.credentials, local.url, url)
    )
    os.environ["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] = "0"
    with local.api(), local.worker():
        yield local
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def greengrass(cloud: LocalCloud) -> Any:
    return GreengrassV2Hook(aws_conn_id="aws_default").conn


@pytest.fixture
def iot(cloud: LocalCloud) -> Any:
    return IotHook(aws_conn_id="aws_default").conn


@pytest.fixture
def component(s3: S3, greengrass: Any) -> Callable[..., str]:
    def make(*versions: str, **bundles: bytes) -> str:
        held = {**dict.fromkeys(versions, BUNDLE), **bundles}
        return make_component(s3.client(), greengrass, BUCKET, held)

    return make


class Task:
    """What Airflow hands a task: its state store, and what it pushes to XCom."""

    def __init__(self, name: str = "rollout") -> None:
        self.kept: dict[str, Any] = {}
        self.pushed: dict[str, Any] = {}
        self.state = "running"
        self.ti = SimpleNamespace(
            dag_id="edge", task_id=name, run_id=uuid4().hex, map_index=-1, try_number=1,
            max_tries=0, task=SimpleNamespace(retries=0), xcom_push=self._push,
            get_task_states=lambda **_filters: {self.ti.run_id: {name: self.state}},
        )  # fmt: skip

    def _push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def _keep(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.kept[key] = json.loads(json.dumps(value))

    @property
    def context(self) -> Any:
        store = SimpleNamespace(get=self.kept.get, set=self._keep)
        return {"ti": self.ti, "task_state_store": store}

    def record(self, iot: Any) -> dict[str, Any]:
        found = iot.describe_thing_group(
            thingGroupName=f"rollout-{self.pushed['rollout']['rollout_id']}"
        )
        attributes: dict[str, Any] = found["thingGroupProperties"]["attributePayload"]["attributes"]
        reason = found["thingGroupProperties"]["thingGroupDescription"]
        return {**attributes, "reason": reason, "revision": found["version"]}


def rollout(name: str, version: str, fleet: WireFleet, **changes: Any) -> EdgeRolloutOperator:
    given = {
        "task_id": "rollout",
        "component_name": name,
        "component_version": version,
        "thing_names": fleet.names,
        "poll_interval": 0.2,
        "stage_timeout": 60,
        "offline_after": 1,
    }
    return EdgeRolloutOperator(**{**given, **changes})


CANARY = [{"name": "canary", "percent": 20}, {"name": "all", "percent": 100}]


def test_a_rollout_reaches_every_device_stage_by_stage(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0"), Task()
    with WireFleet(cloud, 5) as fleet:
        result = rollout(name, "1.0.0", fleet, stages=CANARY).execute(task.context)
        assert set(fleet.versions(name).values()) == {"1.0.0"}
    assert result["state"] == "SUCCEEDED"
    assert (result["devices"], result["succeeded"], result["failed"]) == (5, 5, 0)
    record = task.record(iot)
    assert record["state"] == "SUCCEEDED"
    assert "name=canary,devices=1" in record["stage-1"]
    assert "state=SUCCEEDED" in record["stage-1"]
    assert "name=all,devices=4" in record["stage-2"]
    assert record["reason"] == "5 of 5 devices succeeded"


def test_a_bad_version_stops_at_the_canary_and_everybody_goes_back(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0", "2.0.0"), Task()
    with WireFleet(cloud, 5, lambda _name, v: BAD if v == "2.0.0" else GOOD) as fleet:
        rollout(name, "1.0.0", fleet).execute(Task().context)
        with pytest.raises(RolloutStoppedError, match="golden outputs are wrong"):
            rollout(name, "2.0.0", fleet, stages=CANARY).execute(task.context)
        assert set(fleet.versions(name).values()) == {"1.0.0"}
        asked = [name for name, sent in fleet.sent.items() if {name: "2.0.0"} in sent]
        reached = [each for each, sent in fleet.sent.items() if {name: "2.0.0"} in sent]
    assert not asked
    assert len(reached) == 1
    record = task.record(iot)
    assert record["state"] == "ROLLED_BACK"
    assert "1 devices went back" in record["reason"]


def test_an_abort_leaves_the_good_ones_and_cancels_the_rest(
    cloud: LocalCloud, greengrass: Any, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0"), Task()
    bad: set[str] = set()
    silent: set[str] = set()

    def behave(device: str, _version: str) -> str:
        return BAD if device in bad else SILENT if device in silent else GOOD

    with WireFleet(cloud, 6, behave) as fleet:
        bad |= set(fleet.names[:2])
        silent |= {fleet.names[5]}
        with pytest.raises(RolloutStoppedError, match="is ABORTED"):
            rollout(name, "1.0.0", fleet, on_failure="ABORT", minimum_sample=5,
                    success_threshold=0.3).execute(task.context)  # fmt: skip
        versions = fleet.versions(name)
    assert sorted(versions.values()) == ["", "", "", "1.0.0", "1.0.0", "1.0.0"]
    [sent] = greengrass.list_deployments(targetArn=thing_arn(fleet.names[5]))["deployments"]
    assert sent["deploymentStatus"] == "CANCELED"
    assert task.record(iot)["state"] == "ABORTED"


def test_silent_devices_hold_up_nothing_but_the_end_and_count_as_late_then(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0"), Task()
    silent: set[str] = set()
    with WireFleet(cloud, 5, lambda device, _v: SILENT if device in silent else GOOD) as fleet:
        silent |= set(fleet.names[:1])
        result = rollout(
            name, "1.0.0", fleet, success_threshold=0.8, error_threshold=0.25, stage_timeout=4
        ).execute(task.context)
    assert (result["succeeded"], result["offline"]) == (4, 1)
    assert "late" in task.record(iot)["reason"] or task.record(iot)["state"] == "SUCCEEDED"


def test_other_components_of_a_device_stay(
    cloud: LocalCloud, component: Callable[..., str]
) -> None:
    first, second = component("1.0.0"), component("3.0.0")
    with WireFleet(cloud, 2) as fleet:
        rollout(first, "1.0.0", fleet).execute(Task().context)
        rollout(second, "3.0.0", fleet).execute(Task().context)
        assert set(fleet.versions(first).values()) == {"1.0.0"}
        assert set(fleet.versions(second).values()) == {"3.0.0"}


def test_a_disruption_budget_bounds_who_is_at_work(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name = component("1.0.0")
    open_now: list[int] = []
    with WireFleet(cloud, 6) as fleet:
        for n, thing in enumerate(fleet.names):
            iot.update_thing(
                thingName=thing, attributePayload={"attributes": {"site": f"s{n % 2}"}}
            )
        step = fleet._step

        def watched(device: str, agent: Any) -> None:
            listed = GreengrassV2Hook(aws_conn_id="aws_default").conn.list_deployments()
            mine = [each for each in listed["deployments"]
                    if each["targetArn"].rpartition("/")[2] in fleet.agents
                    and each["deploymentStatus"] == "ACTIVE"]  # fmt: skip
            open_now.append(len(mine))
            step(device, agent)

        fleet._step = watched  # type: ignore[method-assign]
        rollout(name, "1.0.0", fleet, budget_devices=1, budget_group="site").execute(Task().context)
    assert max(open_now) <= 2  # one of each site


def test_a_device_that_gives_the_model_up_while_it_soaks_breaks_the_stage(
    cloud: LocalCloud, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0", "2.0.0"), Task()
    later: set[str] = set()

    def behave(device: str, version: str) -> str:
        return BROKEN_LATER if version == "2.0.0" and device in later else GOOD

    with WireFleet(cloud, 3, behave) as fleet:
        later |= {fleet.names[0]}
        rollout(name, "1.0.0", fleet).execute(Task().context)
        soaking = [{"name": "all", "percent": 100, "soak_seconds": 30}]
        with pytest.raises(RolloutStoppedError, match=r"went back to .* 1\.0\.0 since"):
            rollout(name, "2.0.0", fleet, stages=soaking).execute(task.context)
        assert set(fleet.versions(name).values()) == {"1.0.0"}


class Person:
    """Wishes as the page writes them, once the record is in a state."""

    def __init__(self, iot: Any, task: Task, state: str, *wishes: str) -> None:
        import threading

        self._thread = threading.Thread(target=self._work, args=(iot, task, state, wishes))

    def _work(self, iot: Any, task: Task, state: str, wishes: tuple[str, ...]) -> None:
        for wish in wishes:
            while "rollout" not in task.pushed or self._state(iot, task) != state:
                time.sleep(0.1)
            iot.update_thing_group(
                thingGroupName=f"rollout-{task.pushed['rollout']['rollout_id']}",
                thingGroupProperties={
                    "attributePayload": {
                        "attributes": {"wish": wish, "wish-by": "ana"}, "merge": True,
                    }
                },
            )  # fmt: skip
            time.sleep(0.5)

    @staticmethod
    def _state(iot: Any, task: Task) -> str:
        try:
            return str(task.record(iot)["state"])
        except iot.exceptions.ResourceNotFoundException:
            return ""

    def __enter__(self) -> "Person":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_person_approves_a_stage(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0"), Task()
    stages = [CANARY[0], {**CANARY[1], "approval": True}]
    with WireFleet(cloud, 5) as fleet, Person(iot, task, "WAITING_APPROVAL", "approve"):
        result = rollout(name, "1.0.0", fleet, stages=stages).execute(task.context)
    assert result["succeeded"] == 5
    record = task.record(iot)
    assert record["wish-done"] == "approve"
    assert "wish" not in record


def test_a_paused_rollout_goes_on_without_those_that_failed(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0"), Task()
    bad: set[str] = set()
    with WireFleet(cloud, 4, lambda device, _v: BAD if device in bad else GOOD) as fleet:
        bad |= {fleet.names[0]}
        with Person(iot, task, "PAUSED", "resume"):
            result = rollout(name, "1.0.0", fleet, on_failure="PAUSE").execute(task.context)
    assert (result["succeeded"], result["failed"]) == (3, 1)


def test_a_person_rolls_back(cloud: LocalCloud, iot: Any, component: Callable[..., str]) -> None:
    name, task = component("1.0.0", "2.0.0"), Task()
    with WireFleet(cloud, 3) as fleet:
        rollout(name, "1.0.0", fleet).execute(Task().context)
        stages = [{**CANARY[0], "soak_seconds": 600}, CANARY[1]]
        with (
            Person(iot, task, "RUNNING", "rollback"),
            pytest.raises(RolloutStoppedError, match="rollback was asked for by ana"),
        ):
            rollout(name, "2.0.0", fleet, stages=stages).execute(task.context)
        assert set(fleet.versions(name).values()) == {"1.0.0"}


def test_a_retry_goes_on_with_the_rollout_and_sends_nothing_twice(
    cloud: LocalCloud, greengrass: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0"), Task()
    with WireFleet(cloud, 4) as fleet:
        operator = rollout(name, "1.0.0", fleet, stages=CANARY, poll_interval=0.01)
        calls = {"looks": 0}
        sleep = operator._pause.sleep

        class Killed(BaseException):
            pass

        def killed(seconds: float) -> None:
            calls["looks"] += 1
            if calls["looks"] == 2:
                raise Killed
            sleep(seconds)

        operator._pause.sleep = killed  # type: ignore[method-assign]
        with pytest.raises(Killed):
            operator.execute(task.context)
        first = task.pushed["rollout"]
        result = rollout(name, "1.0.0", fleet, stages=CANARY).execute(task.context)
        assert task.pushed["rollout"] == first
    assert result["succeeded"] == 4
    for thing in fleet.names:
        sent = greengrass.list_deployments(targetArn=thing_arn(thing), historyFilter="ALL")
        assert len(sent["deployments"]) == 1


def test_a_task_that_a_user_ends_gives_everybody_back_what_they_had(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0", "2.0.0"), Task()
    with WireFleet(cloud, 3) as fleet:
        rollout(name, "1.0.0", fleet).execute(Task().context)
        stages = [{"name": "all", "percent": 100, "soak_seconds": 600}]
        operator = rollout(name, "2.0.0", fleet, stages=stages)
        sleep = operator._pause.sleep

        def ended(seconds: float) -> None:
            if set(fleet.versions(name).values()) == {"2.0.0"}:
                task.state = "failed"
                operator.on_kill()
            sleep(seconds)

        operator._pause.sleep = ended  # type: ignore[method-assign]
        with pytest.raises(Exception, match="was told to end"):
            operator.execute(task.context)
        deadline = time.monotonic() + 30
        while set(fleet.versions(name).values()) != {"1.0.0"}:
            assert time.monotonic() < deadline, fleet.versions(name)
            time.sleep(0.1)
    assert task.record(iot)["state"] == "ROLLING_BACK"


def test_a_rollout_is_driven_by_the_triggerer(
    cloud: LocalCloud, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0"), Task()
    with WireFleet(cloud, 4) as fleet:
        operator = rollout(name, "1.0.0", fleet, stages=CANARY, deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(task.context)
        event = asyncio.run(fired(round_trip(deferred.value.trigger)))
        assert event["state"] == "SUCCEEDED"
        result = operator.execute_complete(task.context, event)
        assert set(fleet.versions(name).values()) == {"1.0.0"}
    assert result["succeeded"] == 4


def test_a_killed_trigger_gives_everybody_back_what_they_had(
    cloud: LocalCloud, iot: Any, component: Callable[..., str]
) -> None:
    name, task = component("1.0.0", "2.0.0"), Task()
    stages = [{"name": "all", "percent": 100, "soak_seconds": 600}]

    async def killed(trigger: RolloutTrigger, fleet: WireFleet) -> None:
        running = asyncio.create_task(fired(trigger))
        while set(fleet.versions(name).values()) != {"2.0.0"}:
            await asyncio.sleep(0.1)
        running.cancel()
        await trigger.on_kill()

    with WireFleet(cloud, 3) as fleet:
        rollout(name, "1.0.0", fleet).execute(Task().context)
        operator = rollout(name, "2.0.0", fleet, stages=stages, deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(task.context)
        asyncio.run(killed(round_trip(deferred.value.trigger), fleet))
        assert set(fleet.versions(name).values()) == {"1.0.0"}
    assert task.record(iot)["state"] == "ROLLED_BACK"


def round_trip(trigger: RolloutTrigger) -> RolloutTrigger:
    """Return the trigger as a triggerer makes it of what the database has."""
    path, arguments = trigger.serialize()
    assert path == "model_delivery.triggers.edge_rollout.RolloutTrigger"
    return RolloutTrigger(**json.loads(json.dumps(arguments)))


async def fired(trigger: RolloutTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        assert "error" not in event.payload, event.payload
        return dict(event.payload)
    raise AssertionError("it fired nothing")


def test_the_last_good_version_is_what_each_device_ran_well_before(
    cloud: LocalCloud, component: Callable[..., str]
) -> None:
    name = component("1.0.0", "2.0.0", "3.0.0")
    with WireFleet(cloud, 3, lambda _d, v: BAD if v == "2.0.0" else GOOD) as fleet:
        rollout(name, "1.0.0", fleet).execute(Task().context)
        with pytest.raises(RolloutStoppedError):
            rollout(name, "2.0.0", fleet, on_failure="ABORT").execute(Task().context)
        rollout(name, "3.0.0", fleet).execute(Task().context)
        assert set(fleet.versions(name).values()) == {"3.0.0"}
        back = RollbackOperator(
            task_id="back", component_name=name, thing_names=fleet.names, poll_interval=0.2
        )
        assert back.execute(Task("back").context)["succeeded"] == 3
        assert set(fleet.versions(name).values()) == {"1.0.0"}


def test_a_retired_model_is_gone_and_so_are_its_versions_that_nobody_has(
    cloud: LocalCloud, greengrass: Any, component: Callable[..., str]
) -> None:
    name, other = component("1.0.0", "2.0.0"), component("1.0.0")
    with WireFleet(cloud, 3) as fleet, WireFleet(cloud, 1) as elsewhere:
        rollout(other, "1.0.0", fleet).execute(Task().context)
        rollout(name, "1.0.0", fleet).execute(Task().context)
        rollout(name, "2.0.0", elsewhere).execute(Task().context)
        retire = RetireModelOperator(
            task_id="retire", component_name=name, thing_names=fleet.names, poll_interval=0.2
        )
        retire.execute(Task("retire").context)
        assert set(fleet.versions(name).values()) == {""}
        assert set(fleet.versions(other).values()) == {"1.0.0"}
        assert set(elsewhere.versions(name).values()) == {"2.0.0"}
    arn = f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:{name}"
    listed = greengrass.list_component_versions(arn=arn)["componentVersions"]
    assert [each["componentVersion"] for each in listed] == ["2.0.0"]


def test_a_deployment_is_cancelled_once_and_one_that_ended_is_left(
    cloud: LocalCloud, greengrass: Any, component: Callable[..., str]
) -> None:
    name = component("1.0.0")
    with WireFleet(cloud, 1, lambda _d, _v: SILENT) as fleet:
        made = greengrass.create_deployment(
            targetArn=thing_arn(fleet.names[0]), components={name: {"componentVersion": "1.0.0"}}
        )
        cancel = CancelDeploymentOperator(task_id="c", deployment_id=made["deploymentId"])
        first, second = cancel.execute({}), cancel.execute({})
    assert (first["status"], first["cancelled"]) == ("CANCELED", True)
    assert (second["status"], second["cancelled"]) == ("CANCELED", False)
    unknown = CancelDeploymentOperator(task_id="c", deployment_id=str(uuid4()))
    with pytest.raises(JobMissingError, match="is not known to the service"):
        unknown.execute({})


@pytest.fixture
def agents(cloud: LocalCloud, tmp_path: Path) -> Iterator[list[Device]]:
    """Three real agents, registered with localcloud."""
    place = ("--account", ACCOUNT, "--region", REGION)
    made = []
    for n in range(3):
        thing = f"camera-{uuid4().hex[:6]}-{n}"
        token = cloud.run("device-token", thing, *place).strip()
        env = {"MODEL_DELIVERY_EDGE_API_TOKEN": API_TOKEN, "MODEL_DELIVERY_EDGE_TOKEN": token}
        made.append(Device(tmp_path / thing, cloud.url, thing=thing, env=env).start())
    yield made
    for device in made:
        device.kill()


def test_real_agents_keep_the_good_model_when_a_bad_one_is_rolled_out(
    cloud: LocalCloud, agents: list[Device], component: Callable[..., str], tmp_path: Path
) -> None:
    good, bad, better = (
        scale_bundle(tmp_path / name, factor, off_by=off_by).read_bytes()
        for name, factor, off_by in (("a", 2.0, 0.0), ("b", 3.0, 1.0), ("c", 4.0, 0.0))
    )
    name = component(**{"1.0.0": good, "2.0.0": bad, "3.0.0": better})
    things = [device.thing for device in agents]
    stages = [{"name": str(n), "devices": [thing]} for n, thing in enumerate(things, 1)]

    def roll_out(version: str) -> Any:
        given = {"component_name": name, "component_version": version, "thing_names": things}
        operator = EdgeRolloutOperator(task_id="rollout", stages=stages, poll_interval=0.2, **given)
        return operator.execute(Task().context)

    assert roll_out("1.0.0")["succeeded"] == 3
    assert [device.scale("digits") for device in agents] == [2.0, 2.0, 2.0]
    with pytest.raises(RolloutStoppedError, match="Stage 1 is broken"):
        roll_out("2.0.0")
    assert [device.scale("digits") for device in agents] == [2.0, 2.0, 2.0]
    # A release key that is replaced meanwhile is followed: it is signed by the one they pinned.
    key = cloud.run("release-key", "show").strip()
    anchors = [load(device.home / "trust.json")["anchor"] for device in agents]
    assert all(anchor in key or key in anchor for anchor in anchors)
    cloud.run("release-key", "rotate")
    assert roll_out("3.0.0")["succeeded"] == 3
    assert [device.scale("digits") for device in agents] == [4.0, 4.0, 4.0]
    assert cloud.run("release-key", "show").strip() != key


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [{"name": "a b", "percent": 100}]}, "letters, digits"),
        ({"stages": [{"name": "a", "percents": 100}]}, "one of devices, tags and percent"),
        ({"stages": [{"name": "a", "percent": "many"}]}, "give a number"),
        ({"stages": [{"name": "a"}]}, "must have one of"),
        ({"thing_names": ["nobody-knows-me"]}, "nobody-knows-me does not exist"),
        ({"thing_names": [], "thing_group_name": "nobody"}, "thing group nobody does not exist"),
        ({"thing_names": []}, "one of thing_group_name and thing_names"),
        ({"on_failure": "PANIC"}, "PANIC"),
        ({"component_version": ""}, "component_version"),
        ({"error_threshold": 2}, "error threshold"),
        ({"budget_devices": 0}, "disruption budget"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_sent(
    cloud: LocalCloud, component: Callable[..., str], changes: dict[str, Any], words: str
) -> None:
    fleet = WireFleet(cloud, 1)
    name, task = component("1.0.0"), Task()
    with pytest.raises(InvalidRequestError, match=words):
        rollout(name, "1.0.0", fleet, **changes).execute(task.context)
    assert "rollout" not in task.pushed
