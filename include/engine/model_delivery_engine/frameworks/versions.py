"""Which versions of a framework are read here: the environment's own and older ones."""

import re

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.frameworks.environment import environment_versions

# The environment, and the packages of which one gives the version.
_VERSIONED = {
    "PYTORCH": ("pytorch", ("torch",)),
    "TENSORFLOW": ("tensorflow", ("tensorflow-cpu", "tensorflow")),
    "TFLITE": ("tensorflow", ("tensorflow-cpu", "tensorflow")),
}


def check_framework_version(framework: str, version: str | None) -> None:
    """Refuse a FrameworkVersion that nothing here reads.

    A framework reads what older versions of it saved, so the newest one serves them all.

    :param version: FrameworkVersion of CreateCompilationJob; None asks for nothing
    :raises ConversionError: the framework has no versions, or the version is newer than this one
    """
    if version is None:
        return
    if framework not in _VERSIONED:
        raise ConversionError(
            f"{framework} has no versions here, only {', '.join(_VERSIONED)} have; leave it out",
            reason=Reason.FRAMEWORK_UNSUPPORTED,
        )
    environment, packages = _VERSIONED[framework]
    pins = environment_versions(environment)
    ours = next(pins[name] for name in packages if name in pins)
    if _numbers(version) > _numbers(ours)[: len(_numbers(version))]:
        raise ConversionError(
            f"{framework} {version} is newer than {ours}, which reads models here; save the model "
            "with that version or an older one",
            reason=Reason.FRAMEWORK_UNSUPPORTED,
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
