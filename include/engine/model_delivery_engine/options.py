"""CompilerOptions: a JSON object that says how small and how fast, and what must not get worse.

| option | value | default |
|---|---|---|
| ``precision`` | ``fp32``, ``fp16`` or ``int8``: the lowest that may be chosen | ``fp32`` |
| ``int8`` | ``dynamic``, ``static`` or ``both``: how to quantise | ``both`` |
| ``calibration`` | URI of an ``.npz`` with an array for each input, samples first | none |
| ``samples`` | URI of an ``.npz`` as above with the right answers as a further array | none |
| ``labels`` | name of that array | ``labels`` |
| ``metric`` | a metric by name, or the URI of an ONNX model of one | ``accuracy`` |
| ``output`` | name of the output that the metric reads | the first of floats |
| ``max_accuracy_drop`` | how much of the metric may be lost: of a share of right answers 0 to 1,
  of any other metric in its own unit | none |
| ``min_snr_db`` | least signal-to-noise ratio to the fp32 answers, in decibels, of each output
  and channel; of labels and the like, all answers to wrong ones: 10 is one in ten | 10 |
| ``format`` | ``onnx`` or ``ort`` (ONNX Runtime's own, for small devices) | ``onnx`` |
| ``objective`` | ``latency``, ``throughput`` or ``size``: what decides | ``latency`` |
| ``optimise_for`` | ``portable``, or ``host``: machines like the compiling one | ``portable`` |
| ``dtype`` | data type of a TorchScript or scikit-learn model's inputs (Neo's), or an object of one
  for each input | ``float32`` |
| ``values`` | an object of values by input, which are fixed: a number, or lists in the input's
  shape | none |
| ``signature_def_key`` | signature of a TensorFlow SavedModel (Neo's) | ``serving_default`` |

What Neo's options say of its own code generator (``mcpu``, ``mattr`` …) is refused by name: ONNX
Runtime chooses kernels for the processor that it runs on.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from model_delivery_engine.errors import OptionsError

PRECISIONS = ("fp32", "fp16", "int8")
INT8_METHODS = ("dynamic", "static", "both")
FORMATS = ("onnx", "ort")
OBJECTIVES = ("latency", "throughput", "size")
HOSTS = ("portable", "host")
# Metrics that are a share of right samples, which chance alone gives some of.
COUNTED = ("accuracy", "top5")
_DTYPES = {
    "float": "float32", "float32": "float32", "double": "float64", "float64": "float64",
    "half": "float16", "float16": "float16",
    "int": "int32", "int32": "int32", "long": "int64", "int64": "int64",
    "uint8": "uint8", "int8": "int8", "short": "int16", "int16": "int16", "bool": "bool",
}  # fmt: skip
_CODE_GENERATOR = ("mcpu", "mattr", "llvm_target", "ANDROID_PLATFORM")
_ACCELERATOR = ("gpu-code", "gpu_code", "trt-ver", "cuda-ver", "class_labels")


@dataclass(frozen=True)
class CompilerOptions:
    """CompilerOptions that were read and checked; see the table of this module."""

    precision: str = "fp32"
    int8: str = "both"
    calibration: str | None = None
    samples: str | None = None
    labels: str = "labels"
    metric: str = "accuracy"
    output: str | None = None
    max_accuracy_drop: float | None = None
    min_snr_db: float = 10.0
    format: str = "onnx"
    objective: str = "latency"
    optimise_for: str = "portable"
    dtype: str | dict[str, str] = "float32"
    signature_def_key: str | None = None
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def uris(self) -> tuple[str, ...]:
        """What has to be fetched before `compile_model` is called."""
        found = [uri for uri in (self.calibration, self.samples) if uri is not None]
        return tuple(dict.fromkeys([*found, self.metric] if "/" in self.metric else found))


def parse_compiler_options(text: str | None) -> CompilerOptions:
    """Read CompilerOptions.

    :param text: the JSON; None or empty means every default
    :raises OptionsError: no JSON object, an unknown option, a value out of its range; names it
    """
    try:
        parsed = json.loads(text or "{}", object_pairs_hook=_unique_names)
    except (ValueError, RecursionError) as error:
        raise OptionsError(
            f'CompilerOptions is not JSON ({error}); write it as {{"precision": "int8"}}'
        ) from error
    if not isinstance(parsed, dict):
        raise OptionsError('CompilerOptions is not a JSON object; write {"precision": "int8"}')
    for name in parsed:
        _check_name(name)
    options = CompilerOptions(**{name: _value(name, value) for name, value in parsed.items()})
    _check_together(options, parsed)
    return options


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise OptionsError(f"CompilerOptions has {name!r} twice; give it once")
    return dict(pairs)


def _check_name(name: str) -> None:
    if name in _CODE_GENERATOR:
        raise OptionsError(
            f"CompilerOptions has {name!r}, which steers Neo's own code generator: ONNX Runtime "
            "chooses kernels where the model runs; leave it out"
        )
    if name in _ACCELERATOR:
        raise OptionsError(
            f"CompilerOptions has {name!r}, an option of an accelerator's compiler that is not "
            "here; leave it out, or compile on the AWS backend"
        )
    known = [each.name for each in fields(CompilerOptions)]
    if name not in known:
        raise OptionsError(
            f"CompilerOptions has {name!r}, which is unknown; the options are {', '.join(known)}"
        )


_CHOICES = {
    "precision": PRECISIONS,
    "int8": INT8_METHODS,
    "format": FORMATS,
    "objective": OBJECTIVES,
    "optimise_for": HOSTS,
    "dtype": tuple(_DTYPES),
}
_FETCHED = ("calibration", "samples", "metric")
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^/]+/.")
_RANGES = {"max_accuracy_drop": (0.0, math.inf), "min_snr_db": (-20.0, 200.0)}


def _value(name: str, value: Any) -> Any:
    if name in _RANGES:
        low, high = _RANGES[name]
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            upwards = "up" if high == math.inf else f"to {high:g}"
            raise OptionsError(
                f"CompilerOptions: {name} is {json.dumps(value)[:50]}; give a number from {low:g} "
                f"{upwards}"
            )
        return float(value)
    if name == "dtype" and isinstance(value, dict) and value:
        kinds = {
            n: kind if isinstance(kind, str) else json.dumps(kind) for n, kind in value.items()
        }
        return {each: _value(name, kind) for each, kind in kinds.items()}
    if name == "values":
        if not isinstance(value, dict) or not value:
            raise OptionsError(
                f"CompilerOptions: values is {json.dumps(value)[:50]}; give an object of values by "
                'input, {"values": {"sr": 16000}}'
            )
        return value
    choices = _CHOICES.get(name)
    if choices and (not isinstance(value, str) or value not in choices):
        raise OptionsError(
            f"CompilerOptions: {name} is {json.dumps(value)[:50]}; use one of {', '.join(choices)}"
        )
    if not isinstance(value, str) or not value:
        raise OptionsError(f"CompilerOptions: {name} is {json.dumps(value)[:50]}; give a text")
    if name in _FETCHED and (name != "metric" or "/" in value) and not _URI.match(value):
        raise OptionsError(
            f"CompilerOptions: {name} is {json.dumps(value)[:100]}, which is no URI; write it as "
            "s3://bucket/key"
        )
    return _DTYPES[value] if name == "dtype" else value


def _check_together(options: CompilerOptions, given: Mapping[str, Any]) -> None:
    for name in ("metric", "labels", "output"):
        if name in given and options.samples is None:
            raise OptionsError(
                f"CompilerOptions: {name} says how labelled samples are scored, and there are "
                'none; give "samples": the URI of an .npz, or leave it out'
            )
    if options.max_accuracy_drop is not None and options.samples is None:
        raise OptionsError(
            "CompilerOptions: max_accuracy_drop needs labelled samples to measure it on; give "
            '"samples": the URI of an .npz'
        )
    if options.metric in COUNTED and (options.max_accuracy_drop or 0) > 1:
        raise OptionsError(
            f"CompilerOptions: max_accuracy_drop is {options.max_accuracy_drop:g}; of "
            f"{options.metric}, a share of right answers, give a number from 0 to 1"
        )
    if options.precision == "int8" and options.int8 == "static" and not _calibrates(options):
        raise OptionsError(
            'CompilerOptions: int8 "static" needs data to calibrate on; give "calibration": the '
            "URI of an .npz with an array for each input"
        )


def _calibrates(options: CompilerOptions) -> bool:
    return options.calibration is not None or options.samples is not None
