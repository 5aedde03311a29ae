"""Compilation targets: SageMaker Neo's TargetDevice names and TargetPlatform triples.

Sources: the enums of CreateCompilationJob's OutputConfig, and Neo's list of supported devices for
each one's operating system, architecture and accelerator. What is compiled here runs on the CPU
through ONNX Runtime; a device that Neo targets for its accelerator is refused by name, so that no
artifact pretends to use hardware it does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.errors import TargetError

OPERATING_SYSTEMS = ("ANDROID", "LINUX")
ARCHITECTURES = ("X86_64", "X86", "ARM64", "ARM_EABI", "ARM_EABIHF")
ACCELERATORS = ("INTEL_GRAPHICS", "MALI", "NVIDIA", "NNA")


@dataclass(frozen=True)
class Target:
    """What a model is compiled for.

    :param name: the TargetDevice, or ``<Os>_<Arch>`` of a TargetPlatform
    :param os: LINUX, ANDROID or WINDOWS
    :param arch: X86_64 or ARM64
    :param accelerator: None: what runs here runs on the CPU
    """

    name: str
    os: str
    arch: str
    accelerator: str | None = None


_CPU_DEVICES = {
    **dict.fromkeys(("ml_m4", "ml_m5", "ml_c4", "ml_c5", "lambda"), ("LINUX", "X86_64")),
    **dict.fromkeys(("ml_m6g", "ml_c6g", "rasp4b", "imx8qm"), ("LINUX", "ARM64")),
    "sbe_c": ("LINUX", "X86_64"),
    "x86_win64": ("WINDOWS", "X86_64"),
}
_NEURON = "needs AWS's Neuron compiler"
_CUDA = "is compiled for its NVIDIA GPU, which needs TensorRT"
_NARROW = "is a 32-bit device, for which ONNX Runtime publishes no build"
_GPU = "is compiled for its GPU, which needs the vendor's compiler"
_NPU = "is compiled for its neural accelerator, which needs the vendor's compiler"
_REFUSED_DEVICES = {
    **dict.fromkeys(("ml_inf1", "ml_inf2", "ml_trn1"), _NEURON),
    **dict.fromkeys(("ml_p2", "ml_p3", "ml_g4dn"), _CUDA),
    **dict.fromkeys(("jetson_tx1", "jetson_tx2", "jetson_nano", "jetson_xavier"), _CUDA),
    **dict.fromkeys(("rasp3b", "rk3288", "sitara_am57x", "x86_win32"), _NARROW),
    **dict.fromkeys(("deeplens", "rk3399", "aisage", "qcs603", "qcs605"), _GPU),
    **dict.fromkeys(("amba_cv2", "amba_cv22", "amba_cv25"), _NPU),
    **dict.fromkeys(("jacinto_tda4vm", "imx8mplus"), _NPU),
    "ml_eia2": "needs AWS's Elastic Inference compiler",
    "coreml": "needs Apple's Core ML converter",
}
_NEXT_STEP = "choose a CPU target such as ml_c5 or rasp4b, or compile on the AWS backend"


def resolve_target(target_device: str | None, target_platform: Mapping[str, Any] | None) -> Target:
    """Resolve exactly one of TargetDevice and TargetPlatform.

    :param target_device: a TargetDevice name, such as ``ml_c5``
    :param target_platform: ``{"Os": …, "Arch": …, "Accelerator": … (optional)}``
    :raises TargetError: none or both given, an unknown name, or a target whose compiler is absent
    """
    if (target_device is None) == (target_platform is None):
        raise TargetError("give either TargetDevice or TargetPlatform, not both and not neither")
    if target_platform is not None:
        return _platform(target_platform)
    name = str(target_device)
    if name in _REFUSED_DEVICES:
        raise TargetError(f"TargetDevice {name} {_REFUSED_DEVICES[name]}; {_NEXT_STEP}")
    if name not in _CPU_DEVICES:
        known = ", ".join(sorted(_CPU_DEVICES))
        raise TargetError(f"TargetDevice {name!r} is unknown; CPU targets are {known}")
    return Target(name, *_CPU_DEVICES[name])


def _platform(platform: Mapping[str, Any]) -> Target:
    if unknown := sorted(set(platform) - {"Os", "Arch", "Accelerator"}):
        raise TargetError(f"TargetPlatform has no field {unknown[0]!r}; use Os, Arch, Accelerator")
    system = _member(platform, "Os", OPERATING_SYSTEMS)
    arch = _member(platform, "Arch", ARCHITECTURES)
    if platform.get("Accelerator") is not None:
        accelerator = _member(platform, "Accelerator", ACCELERATORS)
        raise TargetError(
            f"TargetPlatform Accelerator {accelerator} needs the vendor's compiler; {_NEXT_STEP}"
        )
    if arch not in ("X86_64", "ARM64"):
        raise TargetError(f"TargetPlatform Arch {arch} {_NARROW}; {_NEXT_STEP}")
    return Target(f"{system}_{arch}", system, arch)


def _member(platform: Mapping[str, Any], field: str, allowed: tuple[str, ...]) -> str:
    value = platform.get(field)
    if value not in allowed:
        raise TargetError(f"TargetPlatform {field} is {value!r}; use one of {', '.join(allowed)}")
    return str(value)
