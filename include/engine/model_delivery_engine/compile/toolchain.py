"""The packages that make a bundle, by version."""

import functools
import importlib.metadata
import platform

_PACKAGES = ("model-delivery-engine", "numpy", "onnx", "onnxruntime")


@functools.cache
def _own() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version()}


def toolchain(framework: str = "", versions: dict[str, str] | None = None) -> dict[str, str]:
    """Return the version of each package that made a bundle, and of Python.

    :param framework: the framework that the model came from
    :param versions: the packages of its environment, listed as ``pytorch/torch``
    """
    theirs = {f"{framework.lower()}/{name}": v for name, v in (versions or {}).items()}
    return {**_own(), **theirs}
