"""From a framework's archive to one ONNX file; a file a framework."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.frameworks import (
    keras,
    onnx,
    pytorch,
    sklearn,
    tensorflow,
    tflite,
    xgboost,
)
from model_delivery_engine.frameworks.conversion import MODEL, OUTCOME, REFERENCE
from model_delivery_engine.frameworks.environment import environment_python, environment_versions
from model_delivery_engine.frameworks.reference import Answers, read_reference
from model_delivery_engine.frameworks.sandbox import Ended, run_sandboxed
from model_delivery_engine.probes import SECONDS
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
) -> Imported:
    """Turn an extracted archive into one ONNX file.

    :param framework: a Framework of CreateCompilationJob
    :param folder: the extracted archive
    :param shapes: DataInputConfig, from `parse_data_input_config`
    :param into: folder for the result, made here
    :param options: options of the framework: ``signature_def_key`` of TENSORFLOW
    :param dtype: data type of a PyTorch or scikit-learn model's inputs, or one for each by name
    :param samples: the user's samples for the framework to answer, ``samples`` and ``calibration``
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
    into.mkdir(parents=True)
    task = {
        "module": module.__name__.rpartition(".")[2],
        "shapes": shapes,
        "dtype": dtype if isinstance(dtype, str) else "float32",
        "dtypes": {} if isinstance(dtype, str) else dtype,
        "allow_code": settings.allow_code,
        "options": options or {},
        "probe_seconds": min(SECONDS, settings.limits.seconds * _PROBING),
    }
    outcome = _convert(framework, python, folder, source, into, task, settings, samples or {})
    reference = read_reference(into / REFERENCE, outcome)
    return Imported(into / MODEL, reference, environment_versions(module.ENVIRONMENT))


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
    framework: str,
    python: Path,
    folder: Path,
    source: Path,
    into: Path,
    task: dict[str, Any],
    settings: CompilerSettings,
    samples: Mapping[str, Path],
) -> dict[str, Any]:
    """Run the converter in the sandbox; return how it went."""
    # The engine alone is laid out for the process: its folder may hold the host's packages too.
    library = into / "library"
    library.mkdir()
    if settings.sandbox:
        inside = {folder: "/source", into: "/result", _PACKAGE: "/engine/model_delivery_engine"}
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
        inside, paths = {}, {"source": str(source), "into": str(into), "samples": files}
        engine = str(library)
    # Inside the sandbox /tmp is its own; without it, what is left there would outlive the job.
    own = into / "tmp"
    own.mkdir()
    place = python.parent.parent
    read = {k: v for k, v in inside.items() if k != into} | {place: str(place)}
    ended = run_sandboxed(
        [str(python), "-m", f"{__name__}.inside", json.dumps({**task, **paths})],
        read=read,
        write={into: "/result"},
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
    return _check(framework, ended, into, settings)


def _check(framework: str, ended: Ended, into: Path, settings: CompilerSettings) -> dict[str, Any]:
    outcome_file = into / OUTCOME
    outcome: dict[str, Any] = {}
    if outcome_file.is_file():
        outcome = json.loads(outcome_file.read_text())
    if outcome.get("ok") and (into / MODEL).is_file():
        # The model was converted; what ended is the framework, on inputs drawn for it.
        for place, name in enumerate(outcome.get("pending", ())):
            why = "it was not asked any more" if place else "the framework ended or hung on it"
            outcome["left_out"][name] = why
        return outcome
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
    if ended.limit == "memory_bytes" or outcome.get("memory"):
        raise ConversionError(
            f"the conversion of the {framework} model needs more than the "
            f"{limits.memory_bytes >> 20} MiB of MODEL_DELIVERY_CONVERSION_MEMORY; give smaller "
            "dimensions, export it to ONNX yourself, or raise it",
            reason=Reason.CONVERSION_MEMORY,
        )
    if not outcome:
        raise ConversionError(
            f"the conversion of the {framework} model ended with code {ended.code} "
            f"({' '.join(ended.log.split())[-300:]}); it may need more than the "
            f"{limits.memory_bytes >> 20} MiB of MODEL_DELIVERY_CONVERSION_MEMORY",
        )
    reason = Reason(outcome["reason"]) if outcome.get("reason") else None
    text = str(outcome.get("error", "no message"))
    if reason is None:
        text = f"the {framework} model cannot be converted: {text}; export it to ONNX yourself"
    raise ConversionError(text, reason=reason, operator=outcome.get("operator"))
