"""The device wire, version 2: what the cloud desires of a device, and what the device reports."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from model_delivery_edge.errors import DeploymentError, ProtocolError

PROTOCOL_HEADER = "Model-Delivery-Edge-Protocol"
PROTOCOL_VERSION = "2"

Status = Literal["IN_PROGRESS", "SUCCEEDED", "FAILED", "IDLE"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Nothing but a path of the cloud itself: the device's key is sent along with it.
_ARTIFACT_PATH = re.compile(r"/edge/v\d+/artifacts/[A-Za-z0-9:._-]+")


@dataclass(frozen=True)
class Artifact:
    """A bundle to fetch.

    :param digest: of the bundle, ``sha256:<hex>``
    :param size: in bytes
    :param path: where it is, below the cloud's URL
    """

    digest: str
    size: int
    path: str


@dataclass(frozen=True)
class Component:
    """A component version that the device shall run."""

    name: str
    version: str
    artifact: Artifact
    configuration: Mapping[str, Any] = field(default_factory=dict)
    # Who signed it says nothing of what it is: the same under another generation is the same.
    release: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def model_name(self) -> str:
        """The name under which it is served: ``configuration.modelName``, or the component's."""
        return str(self.configuration.get("modelName") or self.name)


@dataclass(frozen=True)
class Desired:
    """All that a device shall run; a higher generation supersedes a lower one.

    :param deadline_seconds: after which, from when the device hears of it, it is given up
        (default: never)
    :param retry: whether a model that this device has refused before is to be tried once more
    :param keys: rotations of the release key, oldest first
    """

    generation: int
    deployment_id: str | None
    components: tuple[Component, ...]
    deadline_seconds: float | None = None
    retry: bool = False
    keys: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as the wire spells it."""
        return {**asdict(self), "components": [asdict(each) for each in self.components]}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read it; ProtocolError names the field that is missing or mistyped."""
        generation = _typed(data, "generation", int)
        deployment = None
        if isinstance(data.get("deployment_id"), str):
            deployment = data["deployment_id"]
        components = _typed(data, "components", list)
        deadline = data.get("deadline_seconds")
        if deadline is not None and (not isinstance(deadline, int | float) or deadline < 0):
            raise ProtocolError("desired state: field 'deadline_seconds' is no number of seconds")
        parts = tuple(_component(each) for each in components)
        return cls(generation, deployment, parts, deadline, data.get("retry") is True, _keys(data))

    def check(self) -> None:
        """Refuse, with a DeploymentError, what no device could run or should fetch."""
        names = [component.model_name for component in self.components]
        for component in self.components:
            _check_component(component)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DeploymentError(
                f"two components would both serve the model {twice!r}; "
                "give one of them another modelName"
            )


def _check_component(component: Component) -> None:
    if not _MODEL_NAME.fullmatch(component.model_name):
        raise DeploymentError(
            f"{component.model_name!r} cannot name a model in a URL; "
            "use letters, digits, '.', '_' and '-' as its modelName"
        )
    if not _MODEL_NAME.fullmatch(component.version):
        raise DeploymentError(
            f"component {component.name} has the version {component.version!r}; use 1.0.0"
        )
    if not _DIGEST.fullmatch(component.artifact.digest):
        raise DeploymentError(
            f"component {component.name} has the artifact digest {component.artifact.digest!r}, "
            "which is no sha256; create the component version again"
        )
    if component.artifact.size < 1:
        raise DeploymentError(
            f"component {component.name} has an artifact of {component.artifact.size} bytes; "
            "create the component version again"
        )
    if not _ARTIFACT_PATH.fullmatch(component.artifact.path):
        raise DeploymentError(
            f"component {component.name} has its artifact at {component.artifact.path!r}, "
            "which is not on this cloud; create the component version again"
        )


@dataclass(frozen=True)
class Running:
    """What a device serves now: component, version, digests of its bundle and its model file."""

    name: str
    version: str
    digest: str
    model_digest: str


@dataclass(frozen=True)
class Report:
    """What a device says of itself.

    :param error: why it FAILED, in one line
    :param endpoint: URL of its inference endpoint, where it is known
    :param state: the journal's, which says more than the status
    :param components: the state of each component, by its name
    :param profiles: what probes measured since the start: record and its signature
    :param offline_seconds: for which no report reached the cloud before this one
    """

    generation: int
    deployment_id: str | None
    status: Status
    running: tuple[Running, ...]
    error: str | None
    agent_version: str
    endpoint: str | None
    state: str
    components: Mapping[str, str]
    profiles: tuple[Mapping[str, Any], ...]
    offline_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as the wire spells it."""
        return asdict(self)


def _component(data: Any) -> Component:
    artifact = _typed(data, "artifact", dict)
    configuration = data.get("configuration") or {}
    if not isinstance(configuration, dict):
        raise ProtocolError("desired state: field 'configuration' is no object; update the agent")
    return Component(
        _typed(data, "name", str),
        _typed(data, "version", str),
        Artifact(
            _typed(artifact, "digest", str),
            _typed(artifact, "size", int),
            _typed(artifact, "path", str),
        ),
        configuration,
        _release(data),
    )


def _release(data: Any) -> dict[str, Any]:
    release = data.get("release") or {}
    if not isinstance(release, dict):
        raise ProtocolError("desired state: field 'release' is no object; update the agent")
    return release


def _keys(data: Any) -> tuple[dict[str, Any], ...]:
    keys = data.get("keys") or []
    if not isinstance(keys, list | tuple) or not all(isinstance(key, dict) for key in keys):
        raise ProtocolError("desired state: field 'keys' is no list of objects; update the agent")
    return tuple(keys)


def _typed(data: Any, key: str, kind: type) -> Any:
    value = data.get(key) if isinstance(data, dict) else None
    # bool is an int to Python, not to JSON
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(
            f"desired state: field {key!r} is missing or no {kind.__name__}; "
            "check that the cloud speaks this agent's protocol, or update the agent"
        )
    return value
