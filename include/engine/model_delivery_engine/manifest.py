"""The manifest of a bundle: what the model is, where it came from, and what was measured of it."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from model_delivery_engine.errors import BundleError
from model_delivery_engine.measurements import Candidate, Latency, Operator, Parity, Profile
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import NUMPY_TYPES, TensorSpec

SCHEMA_VERSION = 1
ONNX_RUNTIME = "onnxruntime"
NEO = "neo"
Record = TypeVar("Record")


@dataclass(frozen=True)
class Source:
    """The model before compilation: URI and digest of its archive, framework in Neo's spelling."""

    uri: str
    digest: str
    framework: str


@dataclass(frozen=True)
class Golden:
    """The golden samples: digest over inputs and outputs, their count, and the tolerance."""

    digest: str
    count: int
    atol: float
    rtol: float


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` of a bundle holds.

    :param quantisation: name of the chosen candidate's quantisation, ``none`` for fp32
    :param conversion: the converted ONNX model against the framework's own; None for ONNX
    :param candidates: every way to compile that was tried, the chosen one among them
    :param metric: the user's metric that the candidates were held to, None where there was none
    :param format: ``onnx``, ``ort``, or ``neo`` for an artifact of Neo's own
    :param runtime: what opens the model: ``onnxruntime`` or ``neo``
    :param fixed_inputs: the source's inputs that are constants of the model, with their values
    """

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
    conversion: Parity | None = None
    candidates: tuple[Candidate, ...] = ()
    metric: str | None = None
    profile: Profile | None = None
    format: str = "onnx"
    runtime: str = ONNX_RUNTIME
    fixed_inputs: Mapping[str, Any] | None = None
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
    return tuple(_tensor(each, f"{where}[{n}]") for n, each in enumerate(_list(value, where)))


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


def _parity(value: Any, where: str) -> Parity | None:
    if value is None:
        return None
    return _build(Parity, _with_tuples(value, "proved", "left_out"), where)


def _candidates(value: Any, where: str) -> tuple[Candidate, ...]:
    return tuple(
        _build(Candidate, _with_tuples(each, "reverted"), f"{where}[{number}]")
        for number, each in enumerate(_list(value, where))
    )


def _profile(value: Any, where: str) -> Profile | None:
    if value is None:
        return None
    profile = _build(Profile, _with_tuples(value, "inference_ms", "operators"), where)
    operators = [_build(Operator, each, f"{where}.operators") for each in profile.operators]
    return dataclasses.replace(profile, operators=tuple(operators))


def _with_tuples(value: Any, *names: str) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: tuple(v) if k in names and isinstance(v, list) else v for k, v in value.items()}


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BundleError(f"{where} is not a list; compile the model again")
    return value


_PARTS: dict[str, Callable[[Any, str], Any]] = {
    "source": _record(Source),
    "target": _record(Target),
    "golden": _record(Golden),
    "parity": _parity,
    "latency": _optional(Latency),
    "conversion": _parity,
    "candidates": _candidates,
    "profile": _profile,
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
    int | None: (int, type(None)),
    float | None: (int, float, type(None)),
    tuple[str, ...]: (tuple,),
    tuple[float, ...]: (tuple,),
    tuple[Operator, ...]: (tuple,),
    Mapping[str, str]: (dict,),
    Mapping[str, Any] | None: (dict, type(None)),
}


def _build(kind: type[Record], value: Any, where: str) -> Record:
    """Build a record from JSON, exact in its fields and in the types of its plain values.

    A field with a default may be missing: releases before it was added wrote none.
    """
    if not isinstance(value, dict):
        raise BundleError(f"{where} is not an object; compile the model again")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    needed = {n for n, field in fields.items() if field.default is dataclasses.MISSING}
    if wrong := sorted((needed - set(value)) | (set(value) - set(fields))):
        raise BundleError(f"{where}: field {wrong[0]!r} is missing or unknown; compile again")
    for name, field in fields.items():
        expected = _PLAIN.get(field.type)
        if name not in value:
            continue
        if expected and (not isinstance(value[name], expected) or value[name] is True):
            raise BundleError(f"{where}: field {name!r} has the wrong type; compile again")
    return kind(**value)
