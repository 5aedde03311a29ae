"""The rules that SageMaker Neo states in prose, held against a request before any call.

What its model states (lengths, patterns, enums) is read from botocore instead: see
`hooks/constraints.py`. Source: SageMaker API, InputConfig, OutputConfig, StoppingCondition.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model_delivery.exceptions import InvalidRequestError

MAX_RUNTIME_SECONDS = 86_400
LONGEST_RUNTIME_SECONDS = 28 * 86_400
ARCHIVE_ENDING = ".tar.gz"
_VERSIONED = ("MXNET", "PYTORCH", "TENSORFLOW", "TFLITE")
_NEURON = ("ml_inf1", "ml_inf2", "ml_trn1")
_IMAGE_RANK = 4
_CHANNELS = (1, 3, 4)
_LARGEST_CHANNELS = 4
_COREML_KEYS = ("bias", "default_shape", "scale", "shape", "type")

_NHWC = 'a dictionary of input name to shape in NHWC, for example {"input": [1, 224, 224, 3]}'
_NCHW = (
    "a dictionary of input name to shape in NCHW, inputs in the model's order, for example "
    '{"data": [1, 3, 224, 224]}'
)
RULES: Mapping[str, str] = {
    "TENSORFLOW": f"TENSORFLOW takes {_NHWC}",
    "TFLITE": f"TFLITE takes {_NHWC}",
    "KERAS": f"KERAS takes {_NCHW}, though the model itself is saved in NHWC",
    "MXNET": f"MXNET takes {_NCHW}",
    "ONNX": f"ONNX takes {_NCHW}",
    "DARKNET": f"DARKNET takes {_NCHW}",
    "PYTORCH": f"PYTORCH takes {_NCHW}, or a list of the shapes in order, [[1, 3, 224, 224]]",
    "XGBOOST": "XGBOOST needs no input name and shape: leave data_input_config out",
    "SKLEARN": 'SKLEARN takes a dictionary of one input to its shape, {"input": [-1, 64]}, or none',
}
_OPTIONAL = ("SKLEARN", "XGBOOST")


def data_input_config(
    value: str | Mapping[str, Any] | Sequence[Any] | None, framework: str, device: str | None
) -> str | None:
    """Return DataInputConfig as JSON text, None where there is none (see `left_to_service`).

    :param value: JSON text, or what it stands for
    :param device: the TargetDevice: coreml takes forms of its own
    :raises InvalidRequestError: says the framework's rule
    """
    rule = RULES.get(framework, f"{framework} takes {_NCHW}")
    text = value if isinstance(value, str) else _as_text(value, "data_input_config", rule)
    config = _parsed(text, "data_input_config", rule) if text.strip() else None
    if config in (None, {}, []):
        return None
    if framework == "XGBOOST":
        raise InvalidRequestError(f"data_input_config is {json.dumps(config)[:100]}: {rule}")
    for name, shape in _inputs(config, framework, rule):
        _check_shape(name, shape, device, rule)
    return text


def left_to_service(text: str | None, framework: str) -> str | None:
    """Return what to warn of where a request leaves the inputs' shapes to the service.

    The API requires none, and does not say of which models Neo derives them.
    """
    if text or framework in _OPTIONAL:
        return None
    return (
        "data_input_config is left to the service, which may derive it where the model says the "
        f"shapes of its inputs; if the job fails for it, give it: {RULES.get(framework, framework)}"
    )


def doubtful_layouts(text: str | None, framework: str) -> list[str]:
    """Return the inputs that look like images of the other layout, each with the rule.

    Not refused: a graph may have been exported in either, and only the service can tell.
    """
    config = json.loads(text or "{}")
    wants_last = framework in ("TENSORFLOW", "TFLITE")
    shapes = config.items() if isinstance(config, dict) else enumerate(config)
    return [
        f"data_input_config: input {name!r} is {shape}, which looks like "
        f"{'NCHW' if wants_last else 'NHWC'}: {RULES.get(framework, framework)}"
        for name, shape in shapes
        if _looks_like(shape, last=not wants_last)
    ]


def _looks_like(shape: Any, *, last: bool) -> bool:
    """Tell whether a shape is a square image's with channels last (or second)."""
    if not isinstance(shape, list) or len(shape) != _IMAGE_RANK:
        return False
    _, second, third, fourth = shape
    if last:
        return fourth in _CHANNELS and second == third > _LARGEST_CHANNELS
    return second in _CHANNELS and third == fourth > _LARGEST_CHANNELS


def _inputs(config: Any, framework: str, rule: str) -> Iterator[tuple[Any, Any]]:
    if isinstance(config, Mapping):
        return iter(config.items())
    if isinstance(config, Sequence) and not isinstance(config, str) and framework == "PYTORCH":
        return iter(enumerate(config))
    raise InvalidRequestError(f"data_input_config is {json.dumps(config)[:100]}: {rule}")


def _check_shape(name: Any, shape: Any, device: str | None, rule: str) -> None:
    if isinstance(shape, Mapping) and device == "coreml":
        if unknown := sorted(set(shape) - set(_COREML_KEYS)):
            raise InvalidRequestError(
                f"data_input_config: input {name!r} has {unknown[0]!r}; coreml takes "
                f"{', '.join(_COREML_KEYS)}"
            )
        return
    if not isinstance(shape, Sequence) or isinstance(shape, str):  # [] is a scalar's
        raise InvalidRequestError(
            f"data_input_config: input {name!r} is {json.dumps(shape)[:100]}, not a shape: {rule}"
        )
    for position, size in enumerate(shape):
        # -1 is localcloud's, for a batch of any size; Neo says that it wants a number.
        if type(size) is not int or (size < 1 and not (size == -1 and position == 0)):
            raise InvalidRequestError(
                f"data_input_config: input {name!r} has {json.dumps(size)[:50]} at position "
                f"{position} of its shape; sizes are whole numbers above 0, and only the first, "
                f"the batch, may be left open as -1. {rule}"
            )


def compiler_options(
    value: str | Mapping[str, Any] | None, device: str | None, platform: Mapping[str, str] | None
) -> str | None:
    """Return CompilerOptions as JSON text, None where there are none.

    :raises InvalidRequestError: no JSON, no object, or none for a platform that cannot do without
    """
    if not value or value == "{}":
        if (platform or {}).get("Accelerator") == "NVIDIA":
            raise InvalidRequestError(
                "compiler_options is empty: a TargetPlatform with NVIDIA needs "
                '{"gpu-code": "sm_72", "trt-ver": "6.0.1", "cuda-ver": "10.1"} of its device'
            )
        return None
    rule = 'it is a JSON object, for example {"dtype": "float32"}'
    text = value if isinstance(value, str) else _as_text(value, "compiler_options", rule)
    options = _parsed(text, "compiler_options", rule)
    if not isinstance(options, dict) and not (isinstance(options, str) and device in _NEURON):
        raise InvalidRequestError(f"compiler_options is {text[:100]!r}: {rule}")
    if isinstance(options, dict):
        _check_values(options)
    return text


def _check_values(options: Mapping[str, Any]) -> None:
    """Refuse values that fix no input; what an input takes is the model's to say."""
    values = options.get("values", {"": 0})
    if not isinstance(values, Mapping) or not values:
        raise InvalidRequestError(
            f"compiler_options: values is {json.dumps(values)[:100]}, not an object of values by "
            'input: {"values": {"sr": 16000}}'
        )
    for name, value in values.items():
        if not isinstance(value, int | float | list):
            raise InvalidRequestError(
                f"compiler_options: values gives {name!r} {json.dumps(value)[:100]}; give a "
                "number, or lists of numbers in the input's shape"
            )


def _parsed(text: str, parameter: str, rule: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"{parameter} {text[:100]!r} is not JSON ({error}): {rule}"
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


def _as_text(value: Any, parameter: str, rule: str) -> str:
    try:
        return json.dumps(dict(value) if isinstance(value, Mapping) else value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"{parameter} {repr(value)[:100]} has no form in JSON ({error}): {rule}"
        ) from error


def check_target(device: str | None, platform: Mapping[str, str] | None) -> None:
    """Require one of the two, and a platform's members by name."""
    if bool(device) == bool(platform):
        raise InvalidRequestError("give target_device or target_platform, and not both")
    if platform and (wrong := sorted(set(platform) - {"Os", "Arch", "Accelerator"})):
        raise InvalidRequestError(
            f"target_platform has {wrong[0]!r}: it takes Os, Arch and Accelerator"
        )


def check_source(model_uri: str, framework: str, version: str | None) -> None:
    """Require an archive in S3, and a version only where there are versions."""
    if not model_uri.startswith("s3://") or not model_uri.endswith(ARCHIVE_ENDING):
        raise InvalidRequestError(
            f"model_uri {model_uri!r} is not an s3:// URI of a {ARCHIVE_ENDING} archive: "
            "copy the model there first, for example with CopyObjectsOperator"
        )
    if version and framework not in _VERSIONED:
        raise InvalidRequestError(
            f"framework_version is {version!r}: {framework} has no versions, only "
            f"{', '.join(_VERSIONED)} have"
        )


def stopping_condition(runtime: int, wait: int | None, pending: int | None) -> dict[str, int]:
    """Return StoppingCondition; all in seconds.

    :raises InvalidRequestError: a runtime outside 1 second to 28 days, or a wait shorter than it
    """
    if not 1 <= runtime <= LONGEST_RUNTIME_SECONDS:
        raise InvalidRequestError(
            f"max_runtime_seconds is {runtime}: "
            f"SageMaker takes 1 to {LONGEST_RUNTIME_SECONDS} (28 days)"
        )
    if wait is not None and wait < runtime:
        raise InvalidRequestError(
            f"max_wait_seconds is {wait}, which must be at least max_runtime_seconds ({runtime})"
        )
    given = {
        "MaxRuntimeInSeconds": runtime,
        "MaxWaitTimeInSeconds": wait,
        "MaxPendingTimeInSeconds": pending,
    }
    return {name: seconds for name, seconds in given.items() if seconds is not None}
