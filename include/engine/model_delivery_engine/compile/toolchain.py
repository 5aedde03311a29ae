"""The packages that make a bundle, by version, and this one by what its files hold."""

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

_PACKAGES = ("model-delivery-engine", "numpy", "onnx", "onnxruntime")


_PACKAGE = Path(__file__).resolve().parent.parent


@functools.cache
def engine_digest(package: Path = _PACKAGE) -> str:
    """Return a digest over this package's own files: two states of it may have one version."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            data = path.read_bytes()
            digest.update(f"{path.relative_to(package).as_posix()} {len(data)}\n".encode())
            digest.update(data)
    return f"sha256:{digest.hexdigest()}"


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
