"""Devices that speak the device wire and do as they are told: a fleet without models."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from stack.credentials import ACCOUNT, REGION
from tests.contract.test_greengrass import Agent, recipe

BUNDLE = b"a bundle of a fleet" * 100
DIGEST = "sha256:" + hashlib.sha256(BUNDLE).hexdigest()
GOOD, BAD, SILENT, BROKEN_LATER = "good", "bad", "silent", "broken later"


class WireFleet:
    """Registered devices that follow their desired state in a thread, until the block ends.

    :param cloud: a `LocalCloud`, or what tests have in its place
    :param behaviour: of a device with a version of a component: GOOD, BAD (it fails), SILENT (it is
        not heard of), or BROKEN_LATER (its watch gives it up, a second after it succeeded)
    """

    def __init__(
        self, cloud: Any, number: int, behaviour: Callable[[str, str], str] = lambda *_: GOOD
    ) -> None:
        self.behaviour = behaviour
        self.agents: dict[str, Agent] = {}
        prefix = f"camera-{uuid4().hex[:6]}"

        def registered(n: int) -> Agent:
            agent = Agent(cloud, f"{prefix}-{n}")
            place = ("--account", ACCOUNT, "--region", REGION)
            token = cloud.run("device-token", agent.thing, *place).strip()
            assert agent.register(token).status_code == 201
            return agent

        with ThreadPoolExecutor(4) as pool:
            for agent in pool.map(registered, range(number)):
                self.agents[agent.thing] = agent
        self.running: dict[str, list[dict[str, Any]]] = {name: [] for name in self.agents}
        # What each device was sent, in turn: component versions by name.
        self.sent: dict[str, list[dict[str, str]]] = {name: [] for name in self.agents}
        self._generations = dict.fromkeys(self.agents, 0)
        self._breaking: dict[str, tuple[float, list[dict[str, Any]], dict[str, Any]]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.failure: BaseException | None = None

    @property
    def names(self) -> list[str]:
        return list(self.agents)

    def versions(self, component: str) -> dict[str, str]:
        """Return what each device runs of a component; empty for none."""
        return {
            name: next((each["version"] for each in running if each["name"] == component), "")
            for name, running in self.running.items()
        }

    def __enter__(self) -> "WireFleet":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.failure is None, self.failure

    def _work(self) -> None:
        try:
            while not self._over.wait(0.05):
                for name, agent in self.agents.items():
                    self._step(name, agent)
        except BaseException as error:
            self.failure = error

    def _step(self, name: str, agent: Agent) -> None:
        due = self._breaking.get(name)
        if due is not None and time.monotonic() > due[0]:
            del self._breaking[name]
            self.running[name] = due[1]
            self._report(name, due[2], "FAILED", "its watch: too many errors")
        answer = agent.desired(self._generations[name])
        if answer.status_code == 204:
            return
        state = answer.json()
        wanted = {each["name"]: each["version"] for each in state["components"]}
        behaviours = {self.behaviour(name, version) for version in wanted.values()}
        if SILENT in behaviours:
            return
        self._generations[name] = state["generation"]
        self._breaking.pop(name, None)
        self.sent[name].append(wanted)
        self._report(name, state, "IN_PROGRESS")
        if BAD in behaviours:
            self._report(name, state, "FAILED", "its golden outputs are wrong")
            return
        before = self.running[name]
        self.running[name] = [
            {
                "name": each["name"], "version": each["version"],
                "digest": each["artifact"]["digest"], "model_digest": each["artifact"]["digest"],
            }
            for each in state["components"]
        ]  # fmt: skip
        self._report(name, state, "SUCCEEDED")
        if BROKEN_LATER in behaviours:
            self._breaking[name] = (time.monotonic() + 1, before, state)

    def _report(
        self, name: str, state: Mapping[str, Any], status: str, error: str | None = None
    ) -> None:
        answer = self.agents[name].report(
            generation=state["generation"], deployment_id=state["deployment_id"], status=status,
            running=self.running[name], error=error,
        )  # fmt: skip
        assert answer.status_code in (200, 204), answer.text


def make_component(store: Any, client: Any, bucket: str, versions: Mapping[str, bytes]) -> str:
    """Make a component with some versions, each with its bundle; return its name."""
    name = f"digits-{uuid4().hex[:8]}"
    for version, bundle in versions.items():
        key = f"bundles/{name}-{version}.tar.gz"
        store.put_object(Bucket=bucket, Key=key, Body=bundle)
        client.create_component_version(inlineRecipe=recipe(name, version, f"s3://{bucket}/{key}"))
    return name


def thing_arn(name: str) -> str:
    return f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/{name}"
