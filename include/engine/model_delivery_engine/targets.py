"""Compilation targets: SageMaker Neo's TargetDevice names and TargetPlatform triples.

Sources: the enums of CreateCompilationJob's OutputConfig, and Neo's list of supported devices for
each one's operating system, architecture and accelerator. What is compiled here runs on the CPU
through ONNX Runtime; a device that Neo targets for its accelerator is refused by name, so that no
artifact pretends to use hardware it does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
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
    :param arch: an Arch of TargetPlatform
    :param accelerator: None where the CPU runs it, as all that is compiled here
    """

    name: str
    os: str
    arch: str
    accelerator: str | None = None


@dataclass(frozen=True)
class Device:
    """One row of the target table.

    :param accelerator: what Neo compiles for on this device, None for its CPU
    :param providers: ONNX Runtime's execution providers that run the artifact there, best first;
        empty where none does
    :param refusal: why nothing is compiled for it here, None where it is
    """

    name: str
    os: str
    arch: str
    accelerator: str | None = None
    providers: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def optimisation(self) -> str:
        """``portable``, or ``none`` where nothing is compiled.

        The layouts of ONNX Runtime's level ALL depend on the vector width of the processor that
        optimised the model, and a TargetDevice names a family of them. Host-specific optimisation
        is therefore an option (`CompilerOptions.optimise_for`), and never a device's default.
        """
        return "portable" if self.refusal is None else "none"

    @property
    def target(self) -> Target:
        """What the manifest says of it."""
        return Target(self.name, self.os, self.arch, None)


_CPU = ("CPUExecutionProvider",)
_ARM_CPU = ("XnnpackExecutionProvider", "CPUExecutionProvider")
_ANDROID = ("NnapiExecutionProvider", "XnnpackExecutionProvider", "CPUExecutionProvider")

_NEURON = "needs AWS's Neuron compiler"
_CUDA = "is compiled for its NVIDIA GPU, which needs TensorRT"
_NARROW = "is a 32-bit device, for which ONNX Runtime publishes no build"
_GPU = "is compiled for its GPU, which needs the vendor's compiler"
_NPU = "is compiled for its neural accelerator, which needs the vendor's compiler"
_NEXT_STEP = "choose a CPU target such as ml_c5 or rasp4b, or compile on the AWS backend"

_TABLE = (
    Device("lambda", "LINUX", "X86_64", None, _CPU),
    Device("ml_m4", "LINUX", "X86_64", None, _CPU),
    Device("ml_m5", "LINUX", "X86_64", None, _CPU),
    Device("ml_m6g", "LINUX", "ARM64", None, _ARM_CPU),
    Device("ml_c4", "LINUX", "X86_64", None, _CPU),
    Device("ml_c5", "LINUX", "X86_64", None, _CPU),
    Device("ml_c6g", "LINUX", "ARM64", None, _ARM_CPU),
    Device("ml_p2", "LINUX", "X86_64", "NVIDIA", refusal=_CUDA),
    Device("ml_p3", "LINUX", "X86_64", "NVIDIA", refusal=_CUDA),
    Device("ml_g4dn", "LINUX", "X86_64", "NVIDIA", refusal=_CUDA),
    Device("ml_inf1", "LINUX", "X86_64", "INFERENTIA", refusal=_NEURON),
    Device("ml_inf2", "LINUX", "X86_64", "INFERENTIA2", refusal=_NEURON),
    Device("ml_trn1", "LINUX", "X86_64", "TRAINIUM", refusal=_NEURON),
    Device("ml_eia2", "LINUX", "X86_64", "EIA", refusal="needs AWS's Elastic Inference compiler"),
    Device("jetson_tx1", "LINUX", "ARM64", "NVIDIA", refusal=_CUDA),
    Device("jetson_tx2", "LINUX", "ARM64", "NVIDIA", refusal=_CUDA),
    Device("jetson_nano", "LINUX", "ARM64", "NVIDIA", refusal=_CUDA),
    Device("jetson_xavier", "LINUX", "ARM64", "NVIDIA", refusal=_CUDA),
    Device("rasp3b", "LINUX", "ARM_EABIHF", refusal=_NARROW),
    Device("rasp4b", "LINUX", "ARM64", None, _ARM_CPU),
    Device("imx8qm", "LINUX", "ARM64", None, _ARM_CPU),
    Device("deeplens", "LINUX", "X86_64", "INTEL_GRAPHICS", refusal=_GPU),
    Device("rk3399", "LINUX", "ARM64", "MALI", refusal=_GPU),
    Device("rk3288", "LINUX", "ARM_EABIHF", "MALI", refusal=_NARROW),
    Device("aisage", "LINUX", "ARM64", "MALI", refusal=_GPU),
    Device("sbe_c", "LINUX", "X86_64", None, _CPU),
    Device("qcs605", "ANDROID", "ARM64", "MALI", refusal=_GPU),
    Device("qcs603", "ANDROID", "ARM64", "MALI", refusal=_GPU),
    Device("sitara_am57x", "LINUX", "ARM_EABIHF", refusal=_NARROW),
    Device("amba_cv2", "LINUX", "ARM64", "CVFLOW", refusal=_NPU),
    Device("amba_cv22", "LINUX", "ARM64", "CVFLOW", refusal=_NPU),
    Device("amba_cv25", "LINUX", "ARM64", "CVFLOW", refusal=_NPU),
    Device("x86_win32", "WINDOWS", "X86", refusal=_NARROW),
    Device("x86_win64", "WINDOWS", "X86_64", None, _CPU),
    Device("coreml", "IOS", "ARM64", "ANE", refusal="needs Apple's Core ML converter"),
    Device("jacinto_tda4vm", "LINUX", "ARM64", "TDA4VM", refusal=_NPU),
    Device("imx8mplus", "LINUX", "ARM64", "NNA", refusal=_NPU),
)
DEVICES: Mapping[str, Device] = MappingProxyType({device.name: device for device in _TABLE})

_PLATFORM_PROVIDERS = {
    ("LINUX", "X86_64"): _CPU,
    ("LINUX", "ARM64"): _ARM_CPU,
    # ONNX Runtime's Android package carries these four architectures.
    ("ANDROID", "ARM64"): _ANDROID,
    ("ANDROID", "ARM_EABI"): _ANDROID,
    ("ANDROID", "X86_64"): _ANDROID,
    ("ANDROID", "X86"): _ANDROID,
}
_ACCELERATOR_REFUSALS = {
    "INTEL_GRAPHICS": "needs Intel's GPU compiler",
    "MALI": "needs the vendor's OpenCL compiler for Mali GPUs",
    "NVIDIA": "needs the vendor's compiler, TensorRT",
    "NNA": "needs the vendor's compiler of the neural accelerator",
}


def platform_device(os: str, arch: str, accelerator: str | None = None) -> Device:
    """Return the table row of a TargetPlatform triple whose members are of the API's enums."""
    name = "_".join(part for part in (os, arch, accelerator) if part)
    if accelerator is not None:
        return Device(name, os, arch, accelerator, refusal=_ACCELERATOR_REFUSALS[accelerator])
    providers = _PLATFORM_PROVIDERS.get((os, arch))
    if providers is None:
        refusal = f"on {os} is 32-bit, for which ONNX Runtime publishes no build"
        return Device(name, os, arch, refusal=refusal)
    return Device(name, os, arch, None, providers)


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
    device = DEVICES.get(str(target_device))
    if device is None:
        known = ", ".join(sorted(d.name for d in _TABLE if d.refusal is None))
        raise TargetError(f"TargetDevice {target_device!r} is unknown; CPU targets are {known}")
    if device.refusal is not None:
        raise TargetError(f"TargetDevice {device.name} {device.refusal}; {_NEXT_STEP}")
    return device.target


def describe_target(target_device: str | None, target_platform: Mapping[str, Any] | None) -> Target:
    """Return what another compiler compiled for, whether or not anything here could.

    :raises TargetError: a name or triple that the API does not have
    """
    if target_platform is not None:
        device = _platform_row(target_platform)
    elif str(target_device) in DEVICES:
        device = DEVICES[str(target_device)]
    else:
        raise TargetError(f"TargetDevice {target_device!r} is unknown to the API")
    return Target(device.name, device.os, device.arch, device.accelerator)


def _platform(platform: Mapping[str, Any]) -> Target:
    device = _platform_row(platform)
    if device.refusal is not None:
        what = f"Accelerator {device.accelerator}" if device.accelerator else f"Arch {device.arch}"
        raise TargetError(f"TargetPlatform {what} {device.refusal}; {_NEXT_STEP}")
    return device.target


def _platform_row(platform: Mapping[str, Any]) -> Device:
    if unknown := sorted(set(platform) - {"Os", "Arch", "Accelerator"}):
        raise TargetError(f"TargetPlatform has no field {unknown[0]!r}; use Os, Arch, Accelerator")
    system = _member(platform, "Os", OPERATING_SYSTEMS)
    arch = _member(platform, "Arch", ARCHITECTURES)
    accelerator = None
    if platform.get("Accelerator") is not None:
        accelerator = _member(platform, "Accelerator", ACCELERATORS)
    return platform_device(system, arch, accelerator)


def _member(platform: Mapping[str, Any], field: str, allowed: tuple[str, ...]) -> str:
    value = platform.get(field)
    if value not in allowed:
        raise TargetError(f"TargetPlatform {field} is {value!r}; use one of {', '.join(allowed)}")
    return str(value)
