"""What is being served, and how it is replaced under load.

A request takes one reference to an immutable `Served` and keeps it to its end; a swap replaces the
whole table by one assignment. So no request sees half a deployment, and none waits for one.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from model_delivery_engine.bundle import Manifest, open_bundle
from model_delivery_engine.errors import ParityError
from model_delivery_engine.runtime import Model, check_golden
from model_delivery_engine.tensors import Array

from model_delivery_edge.artifacts import Artifacts
from model_delivery_edge.errors import DeploymentError, RequestError
from model_delivery_edge.watch import Figures, WatchedModel, WatchLimits
from model_delivery_edge.wire import Component, Running

Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    """A model that has proved itself on this device.

    :param name: in URLs
    :param component: name of the component it came as
    :param version: of the component
    :param digest: of the bundle
    """

    name: str
    component: str
    version: str
    digest: str
    manifest: Manifest
    model: Model

    def running(self) -> Running:
        """Return it as reports spell it."""
        return Running(self.component, self.version, self.digest, self.manifest.model_digest)

    def is_of(self, component: Component) -> bool:
        """Whether this is what the component asks for."""
        return (self.name, self.component, self.version, self.digest) == (
            component.model_name,
            component.name,
            component.version,
            component.artifact.digest,
        )


@dataclass(frozen=True)
class Candidate:
    """A model that reproduced its golden outputs, and what to ask it once it serves."""

    served: Served
    golden_inputs: Mapping[str, Array]


def load_candidate(component: Component, artifacts: Artifacts, work: Path) -> Candidate:
    """Verify, load and prove a component's model; blocking.

    The golden inputs are also its warm-up: the first run allocates what later runs use.

    :param work: folder for the extracted bundle, which is gone when this returns
    :raises EngineError: the bundle is damaged, cannot be loaded, or answers other than it should
    :raises DeploymentError: the artifact is absent or damaged
    """
    archive = artifacts.verified(component.artifact.digest)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        bundle = open_bundle(archive, Path(folder) / "bundle")
        limits = WatchLimits.of(component.configuration)
        model = Model.load(bundle) if limits is None else WatchedModel.load(bundle)
        check_golden(model, bundle)
        if limits is not None and isinstance(model, WatchedModel):
            model.figures = Figures(limits)
    served = Served(
        component.model_name,
        component.name,
        component.version,
        component.artifact.digest,
        bundle.manifest,
        model,
    )
    return Candidate(served, bundle.golden_inputs)


class Runtime:
    """The table of served models and the threads that run them.

    :param threads: inferences at a time (default: the cores of the device)
    """

    def __init__(self, threads: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="infer")
        self._table: Mapping[str, Served] = MappingProxyType({})
        self.ready = False

    @property
    def table(self) -> Mapping[str, Served]:
        """What is served now, by model name; never changes, is only replaced."""
        return self._table

    def switch(self, served: Iterable[Served]) -> None:
        """Serve exactly these models from now on."""
        self._table = MappingProxyType({each.name: each for each in served})

    def find(self, name: str, version: str | None = None) -> Served:
        """Return the model of this name; RequestError (404) if it or the version is not served."""
        served = self._table.get(name)
        if served is None:
            known = ", ".join(sorted(self._table)) or "none: deploy one first"
            raise RequestError(f"model {name!r} is not on this device; it has {known}", 404)
        if version is not None and version != served.version:
            raise RequestError(
                f"model {name!r} has no version {version!r} here; it serves {served.version}", 404
            )
        return served

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run a piece of inference work on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def prove(self, candidate: Candidate) -> None:
        """Ask a model that was switched to, the way requests do, and check who answers.

        :raises DeploymentError: another model, or none, answers under its name
        :raises EngineError: it fails
        """
        expected = candidate.served
        served = self.find(expected.name, expected.version)
        if served.digest != expected.digest:
            raise DeploymentError(f"model {expected.name!r} is answered for by {served.digest}")
        outputs = await self.run(lambda: served.model.run(candidate.golden_inputs))
        if missing := {spec.name for spec in served.model.outputs} - outputs.keys():
            raise ParityError(f"model {expected.name!r} gave no output {sorted(missing)[0]!r}")

    def close(self) -> None:
        """Finish the inferences that run, and drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)
