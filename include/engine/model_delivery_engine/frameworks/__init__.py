"""From a framework's archive to one ONNX file; a file a framework.

Beside its functions a file may say of its framework: ``MISSING`` (it takes NaN for a value that is
missing), ``OPTIONAL`` (distributions on which the ONNX form may differ, which is then said) and
``EIGHT_BITS`` (some of its models compute in integers).
"""

import dataclasses
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.fixed_inputs import FixedInputs
from model_delivery_engine.frameworks import (
    keras,
    onnx,
    pytorch,
    sklearn,
    tensorflow,
    tflite,
    xgboost,
)
from model_delivery_engine.frameworks.conversion import MODEL
from model_delivery_engine.frameworks.environment import environment_python, environment_versions
from model_delivery_engine.frameworks.results import (
    Answers,
    Outcome,
    Unusable,
    read_answers,
    read_outcome,
    refuse_strange,
    strange,
)
from model_delivery_engine.frameworks.sandbox import Ended, run_sandboxed
from model_delivery_engine.probes import NO_TIME, SECONDS
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.shapes import Shapes

FRAMEWORKS: dict[str, ModuleType] = {
    "KERAS": keras,
    "ONNX": onnx,
    "PYTORCH": pytorch,
    "SKLEARN": sklearn,
    "TENSORFLOW": tensorflow,
    "TFLITE": tflite,
    "XGBOOST": xgboost,
}
_EXPORT_WITH = {
    "DARKNET": "pytorch-YOLOv4's darknet2onnx or another Darknet-to-ONNX converter",
    "MXNET": "mxnet.onnx.export_model (MXNet 1.9, archived since 2023)",
}
_FAULTS = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
)
_PROBING = 0.25  # of the time for a conversion, for what is beyond it
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Imported:
    """A model as ONNX.

    :param model: the ONNX file
    :param reference: the framework's own answers, None for ONNX
    :param toolchain: version of each package that converted it, by name
    """

    model: Path
    reference: Answers | None
    toolchain: dict[str, str]


def to_onnx(
    framework: str,
    folder: Path,
    shapes: Shapes,
    into: Path,
    settings: CompilerSettings,
    options: dict[str, str] | None = None,
    dtype: str | dict[str, str] = "float32",
    samples: Mapping[str, Path] | None = None,
    values: FixedInputs | None = None,
) -> Imported:
    """Turn an extracted archive into one ONNX file.

    :param framework: a Framework of CreateCompilationJob
    :param folder: the extracted archive
    :param shapes: DataInputConfig, from `parse_data_input_config`
    :param into: folder for the result, made here
    :param options: options of the framework: ``signature_def_key`` of TENSORFLOW
    :param dtype: data type of a PyTorch or scikit-learn model's inputs, or one for each by name
    :param samples: the user's samples for the framework to answer, ``samples`` and ``calibration``
    :param values: of inputs that are fixed; the ONNX file still takes them (default: none)
    :raises ConversionError: no model in the archive, several, or one that cannot be converted
    :raises ToolchainError: bubblewrap or the framework's environment cannot be had
    """
    module = _framework(framework)
    source: Path = module.find(folder)
    if module.ENVIRONMENT is None:
        return Imported(source, None, {})
    if hasattr(module, "refuse"):
        module.refuse(source, settings.allow_code)
    python = environment_python(module.ENVIRONMENT, settings.environments)
    # What the process may write lies apart from what is laid out for it.
    result = into / "result"
    result.mkdir(parents=True)
    task = {
        "module": module.__name__.rpartition(".")[2],
        "shapes": shapes,
        "dtype": dtype if isinstance(dtype, str) else "float32",
        "dtypes": {} if isinstance(dtype, str) else dtype,
        "allow_code": settings.allow_code,
        "options": options or {},
        "values": dict(values or {}),
        "probe_seconds": min(SECONDS, settings.limits.seconds * _PROBING),
    }
    ended = _convert(python, folder, source, into, task, settings, samples or {})
    refuse_strange(result, framework)
    try:
        outcome = _check(framework, ended, result, settings)
        most = settings.limits.written_bytes
        found = read_answers(result, outcome, list(samples or {}), most)
    except Unusable as error:
        raise strange(framework, str(error)) from error
    answers = Answers(
        found,
        tuple(f"{name}: {why}" for name, why in outcome.left_out.items()),
        outcome.quantised and getattr(module, "EIGHT_BITS", False),
        getattr(module, "MISSING", False),
        () if outcome.knows_missing else getattr(module, "OPTIONAL", ()),
        outcome.categories if getattr(module, "CATEGORIES", False) else {},
    )
    return Imported(result / MODEL, answers, environment_versions(module.ENVIRONMENT))


def _fault_of(code: int | None) -> str | None:
    """Return the signal by which native code ended itself, None for any other end."""
    number = _signal_of(code)
    return next((each.name for each in _FAULTS if each == number), None)


def _signal_of(code: int | None) -> int:
    """Return the number of the signal that ended a process; below 1 for any other end."""
    # bubblewrap gives 128 and the signal's number, a process of ours the number below zero.
    return -code if code is not None and code < 0 else (code or 0) - 128


def _framework(name: str) -> ModuleType:
    if name in FRAMEWORKS:
        return FRAMEWORKS[name]
    if name in _EXPORT_WITH:
        raise ConversionError(
            f"Framework {name} is not compiled here: export the model to ONNX with "
            f"{_EXPORT_WITH[name]} and set Framework to ONNX",
            reason=Reason.FRAMEWORK_UNSUPPORTED,
        )
    known = ", ".join(sorted([*FRAMEWORKS, *_EXPORT_WITH]))
    raise ConversionError(
        f"Framework {name!r} is unknown; use one of {known}", reason=Reason.FRAMEWORK_UNKNOWN
    )


def _convert(
    python: Path,
    folder: Path,
    source: Path,
    into: Path,
    task: dict[str, Any],
    settings: CompilerSettings,
    samples: Mapping[str, Path],
) -> Ended:
    """Run the converter in the sandbox, which writes ``result`` in the folder given."""
    result = into / "result"
    # The engine alone is laid out for the process: its folder may hold the host's packages too.
    library = into / "library"
    library.mkdir()
    if settings.sandbox:
        inside = {folder: "/source", _PACKAGE: "/engine/model_delivery_engine"}
        inside |= {path: f"/samples/{n}/{path.name}" for n, path in enumerate(samples.values())}
        paths: dict[str, Any] = {
            "source": f"/source/{source.relative_to(folder)}",
            "into": "/result",
            "samples": {name: inside[path] for name, path in samples.items()},
        }
        engine = "/engine"
    else:
        (library / "model_delivery_engine").symlink_to(_PACKAGE)
        files = {name: str(path.resolve()) for name, path in samples.items()}
        inside, paths = {}, {"source": str(source), "into": str(result), "samples": files}
        engine = str(library)
    # Inside the sandbox /tmp is its own; without it, what is left there would outlive the job.
    own = into / "tmp"
    own.mkdir()
    place = python.parent.parent
    return run_sandboxed(
        [str(python), "-m", f"{__name__}.inside", json.dumps({**task, **paths})],
        read={**inside, place: str(place)},
        write={result: "/result"},
        environ={
            "HOME": "/tmp" if settings.sandbox else str(own),
            "TMPDIR": "/tmp" if settings.sandbox else str(own),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": engine,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        },
        limits=settings.limits,
        sandbox=settings.sandbox,
    )


def _check(framework: str, ended: Ended, result: Path, settings: CompilerSettings) -> Outcome:
    told = read_outcome(result)
    outcome = told or Outcome()
    if outcome.ok and (result / MODEL).is_file():
        # The model was converted; what ended is the framework, on inputs drawn for it.
        hung = ended.limit == "seconds" or _signal_of(ended.code) == signal.SIGALRM
        ends = ["the framework ended on it", "it was not asked any more"]
        if hung:
            ends = [f"{NO_TIME}: the framework hung on it", f"{NO_TIME}: it was not asked any more"]
        pending = {name: ends[min(n, 1)] for n, name in enumerate(outcome.pending)}
        return dataclasses.replace(outcome, left_out={**outcome.left_out, **pending})
    limits = settings.limits
    if ended.limit == "seconds":
        raise ConversionError(
            f"the {framework} model was not converted within {limits.seconds:g} s; it may "
            "loop for ever: export it to ONNX yourself, or raise MODEL_DELIVERY_CONVERSION_SECONDS",
            reason=Reason.CONVERSION_TIMEOUT,
        )
    if ended.limit == "processes":
        raise ConversionError(
            f"the {framework} model started more than {limits.processes} processes while it was "
            "loaded; export it to ONNX yourself",
            reason=Reason.UNTRUSTED_CODE,
        )
    if ended.limit == "written_bytes":
        raise ConversionError(
            f"the conversion of the {framework} model wrote more than the "
            f"{limits.written_bytes >> 20} MiB of MODEL_DELIVERY_CONVERSION_DISK, or what is no "
            "plain file; export it to ONNX yourself, or raise it"
        )
    if ended.limit == "memory_bytes" or outcome.memory:
        raise ConversionError(
            f"the conversion of the {framework} model needs more than the "
            f"{limits.memory_bytes >> 20} MiB of MODEL_DELIVERY_CONVERSION_MEMORY; give smaller "
            "dimensions, export it to ONNX yourself, or raise it",
            reason=Reason.CONVERSION_MEMORY,
        )
    if told is None and (fault := _fault_of(ended.code)):
        raise ConversionError(
            f"the archive broke {framework} itself ({fault}) while the model was loaded or run, "
            "which a damaged file does, or one of another version; save the model again, or export "
            "it to ONNX yourself"
        )
    if told is None:
        raise ConversionError(
            f"the conversion of the {framework} model ended with code {ended.code} "
            f"({' '.join(ended.log.split())[-300:] or 'no message'}); it may need more than the "
            f"{limits.memory_bytes >> 20} MiB of MODEL_DELIVERY_CONVERSION_MEMORY",
        )
    text = outcome.error
    if outcome.reason is None:
        text = f"the {framework} model cannot be converted: {text}; export it to ONNX yourself"
    raise ConversionError(text, reason=outcome.reason, operator=outcome.operator)
