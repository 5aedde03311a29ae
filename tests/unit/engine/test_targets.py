import itertools

import pytest
from botocore.loaders import Loader
from model_delivery_engine.errors import TargetError
from model_delivery_engine.targets import (
    ACCELERATORS,
    ARCHITECTURES,
    DEVICES,
    OPERATING_SYSTEMS,
    Device,
    Target,
    platform_device,
    resolve_target,
)


def target_devices() -> list[str]:
    shapes = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    return list(shapes["TargetDevice"]["enum"])


def resolved(device: str) -> Target | str:
    try:
        return resolve_target(device, None)
    except TargetError as error:
        return str(error)


@pytest.mark.parametrize("device", target_devices())
def test_every_device_of_the_api_is_accepted_or_refused_with_its_reason(device: str) -> None:
    answer = resolved(device)
    if isinstance(answer, str):
        assert f"TargetDevice {device} " in answer
        assert "unknown" not in answer
    else:
        assert (answer.name, answer.accelerator) == (device, None)
        assert answer.arch in ("X86_64", "ARM64")


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("ml_c5", Target("ml_c5", "LINUX", "X86_64")),
        ("rasp4b", Target("rasp4b", "LINUX", "ARM64")),
        ("x86_win64", Target("x86_win64", "WINDOWS", "X86_64")),
    ],
)
def test_cpu_devices(device: str, expected: Target) -> None:
    assert resolve_target(device, None) == expected


@pytest.mark.parametrize(
    ("device", "why"),
    [("ml_inf1", "Neuron"), ("jetson_nano", "TensorRT"), ("rasp3b", "32-bit"), ("toaster", "unkn")],
)
def test_what_needs_another_compiler_is_refused(device: str, why: str) -> None:
    with pytest.raises(TargetError, match=f"{device}.*{why}"):
        resolve_target(device, None)


def test_the_table_has_the_devices_of_the_api_and_no_other() -> None:
    assert sorted(DEVICES) == sorted(target_devices())


def rows() -> list[Device]:
    triples = itertools.product(OPERATING_SYSTEMS, ARCHITECTURES, (None, *ACCELERATORS))
    return [*DEVICES.values(), *(platform_device(*triple) for triple in triples)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_a_row_has_execution_providers_or_a_reason_why_not(row: Device) -> None:
    assert bool(row.providers) == (row.refusal is None)
    assert row.optimisation == ("portable" if row.providers else "none")
    assert row.refusal is not None or (row.accelerator is None and "CPUExe" in row.providers[-1])


def test_a_phone_of_either_width() -> None:
    for arch in ("ARM64", "ARM_EABI"):
        platform = {"Os": "ANDROID", "Arch": arch}
        assert resolve_target(None, platform) == Target(f"ANDROID_{arch}", "ANDROID", arch)


def test_a_platform() -> None:
    platform = {"Os": "LINUX", "Arch": "ARM64"}
    assert resolve_target(None, platform) == Target("LINUX_ARM64", "LINUX", "ARM64")


@pytest.mark.parametrize(
    ("platform", "why"),
    [
        ({"Os": "BEOS", "Arch": "ARM64"}, "Os is 'BEOS'"),
        ({"Os": "LINUX"}, "Arch is None"),
        ({"Os": "LINUX", "Arch": "ARM_EABI"}, "32-bit"),
        ({"Os": "LINUX", "Arch": "X86_64", "Accelerator": "NVIDIA"}, "NVIDIA needs the vendor"),
        ({"Os": "LINUX", "Arch": "X86_64", "Accelerator": "TPU"}, "Accelerator is 'TPU'"),
        ({"Os": "LINUX", "Arch": "X86_64", "Cpu": "x"}, "no field 'Cpu'"),
    ],
)
def test_a_platform_that_cannot_be_compiled_for(platform: dict[str, str], why: str) -> None:
    with pytest.raises(TargetError, match=why):
        resolve_target(None, platform)


def test_exactly_one_of_device_and_platform() -> None:
    with pytest.raises(TargetError, match="not both"):
        resolve_target(None, None)
    with pytest.raises(TargetError, match="not both"):
        resolve_target("ml_c5", {"Os": "LINUX", "Arch": "X86_64"})
