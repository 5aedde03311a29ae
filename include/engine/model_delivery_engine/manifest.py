"""The manifest of a bundle: what the model is, where it came from, and what was measured of it."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from model_delivery_engine.errors import BundleError
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import NUMPY_TYPES, TensorSpec

SCHEMA_VERSION = 1
Record = TypeVar("Record")


@dataclass(frozen=True)
class Source:
    """The model before compilation: URI and digest of its archive, framework in Neo's spelling."""

    uri: str
    digest: str
    framework: str


@dataclass(frozen=True)
class Parity:
    """Compiled against source model on the golden inputs; all of ``kind`` measured.

    :param max_abs: largest absolute difference over the floating-point outputs
    :param max_rel: largest difference relative to the source's value
    :param argmax_agreement: share of samples (0 to 1) with the largest value in the same place, in
        every output with classes; None for a model without such an output
    :param samples: golden samples compared
    """

    max_abs: float
    max_rel: float
    argmax_agreement: float | None
    atol: float
    rtol: float
    samples: int
    kind: str = "measured"


@dataclass(frozen=True)
class Latency:
    """Time of one run of source and compiled model: medians over interleaved rounds.

    :param source_ms: the source model on ONNX Runtime with default settings, milliseconds
    :param compiled_ms: the compiled model on the same machine and threads, milliseconds
    :param batch_size: samples in one run
    :param machine: processor, cores, and what ran it
    :param kind: measured, emulated or proxy (measured on another machine than the target)
    """

    source_ms: float
    compiled_ms: float
    rounds: int
    batch_size: int
    threads: int
    machine: str
    kind: str


@dataclass(frozen=True)
class Golden:
    """The golden samples: digest over inputs and outputs, their count, and the tolerance."""

    digest: str
    count: int
    atol: float
    rtol: float


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` of a bundle holds."""

    name: str
    model_digest: str
    source: Source
    target: Target
    toolchain: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: Golden
    quantisation: str = "none"
    parity: Parity | None = None
    latency: Latency | None = None
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Return the manifest as JSON with sorted keys, so that equal manifests are equal bytes."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a manifest; BundleError names a field that is missing, unknown or mistyped."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(
                f"manifest.json is not JSON ({error}); compile the model again"
            ) from error
        if not isinstance(data, dict):
            raise BundleError("manifest.json is not a JSON object; compile the model again")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"manifest.json has schema_version {version!r}, this release reads "
                f"{SCHEMA_VERSION}; use the release that wrote it or compile the model again"
            )
        parts = {key: _part(key, value) for key, value in data.items()}
        return _build(cls, parts, "manifest.json")


def _tensors(value: Any, where: str) -> tuple[TensorSpec, ...]:
    if not isinstance(value, list):
        raise BundleError(f"{where} is not a list; compile the model again")
    return tuple(_tensor(each, f"{where}[{n}]") for n, each in enumerate(value))


def _tensor(value: Any, where: str) -> TensorSpec:
    if isinstance(value, dict) and isinstance(value.get("shape"), list):
        value = {**value, "shape": tuple(value["shape"])}
    spec = _build(TensorSpec, value, where)
    if spec.dtype not in NUMPY_TYPES or not all(type(d) is int for d in spec.shape):
        raise BundleError(f"{where} has an unknown dtype or shape; compile the model again")
    return spec


def _record(kind: type[Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: _build(kind, value, where)


def _optional(kind: type[Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: None if value is None else _build(kind, value, where)


_PARTS: dict[str, Callable[[Any, str], Any]] = {
    "source": _record(Source),
    "target": _record(Target),
    "golden": _record(Golden),
    "parity": _optional(Parity),
    "latency": _optional(Latency),
    "inputs": _tensors,
    "outputs": _tensors,
}


def _part(key: str, value: Any) -> Any:
    read = _PARTS.get(key)
    return read(value, f"manifest.json: {key}") if read else value


_PLAIN: dict[Any, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    float: (int, float),
    str | None: (str, type(None)),
    float | None: (int, float, type(None)),
    Mapping[str, str]: (dict,),
}


def _build(kind: type[Record], value: Any, where: str) -> Record:
    """Build a record from JSON, exact in its fields and in the types of its plain values."""
    if not isinstance(value, dict):
        raise BundleError(f"{where} is not an object; compile the model again")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if wrong := sorted(set(fields) ^ set(value)):
        raise BundleError(f"{where}: field {wrong[0]!r} is missing or unknown; compile again")
    for name, field in fields.items():
        expected = _PLAIN.get(field.type)
        if expected and (not isinstance(value[name], expected) or value[name] is True):
            raise BundleError(f"{where}: field {name!r} has the wrong type; compile again")
    return kind(**value)
