"""An environment for each heavy framework: made on first use, from pinned and hashed packages.

Frameworks pin each other's dependencies apart, and a worker that compiles ONNX needs none of them.
An environment's name holds the digest of its constraints and of the Python it is for, so a release
with new constraints makes a new one beside the old.
"""

import importlib.resources
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from model_delivery_engine.digest import digest_bytes
from model_delivery_engine.errors import ToolchainError, one_line
from model_delivery_engine.waits import locked, waiting

NAMES = ("pytorch", "sklearn", "tensorflow", "xgboost")
_COMPLETE = ".complete"
_INSTALL_SECONDS = 1800


def environment_python(name: str, folder: Path) -> Path:
    """Return the Python of a framework's environment, which is made if it is not there.

    :param name: one of `NAMES`
    :param folder: where environments are kept; several processes may share it
    :raises ToolchainError: the packages cannot be installed; says what uv said
    """
    constraints = _constraints(name)
    place = folder.absolute() / f"{name}-{environment_digest(name)}"
    python = place / "bin" / "python"
    if not (place / _COMPLETE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        what = f"the {name} environment, which is installed once"
        with locked(folder / f".{place.name}.lock", what):
            if not (place / _COMPLETE).is_file():
                with waiting(what):
                    _install(name, constraints, place)
    return python


def environment_digest(name: str) -> str:
    """Return twelve digits that stand for an environment's packages and its Python."""
    text = f"{_constraints(name)}\n{sys.version_info[:3]}\n{sys.platform}\n{os.uname().machine}"
    return digest_bytes(text.encode()).removeprefix("sha256:")[:12]


def environment_versions(name: str) -> dict[str, str]:
    """Return the pinned version of each package of an environment, for a bundle's toolchain."""
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", _constraints(name), re.MULTILINE)
    return dict(pins)


def _constraints(name: str) -> str:
    files = importlib.resources.files("model_delivery_engine.frameworks")
    return (files / "environments" / f"{name}.txt").read_text()


def _install(name: str, constraints: str, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    uv = _uv()
    place.parent.mkdir(parents=True, exist_ok=True)
    pins = place.with_suffix(".txt")
    pins.write_text(constraints)
    try:
        _run(name, [uv, "venv", "--quiet", "--python", _base_python(), str(place)])
        python = str(place / "bin" / "python")
        install = [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes"]
        _run(name, [*install, "--no-build", "--compile-bytecode", "-r", str(pins)])
        (place / _COMPLETE).touch()
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    finally:
        pins.unlink(missing_ok=True)


def _run(name: str, command: list[str]) -> None:
    # An environment of ours has the packages of its constraints and none of the caller's.
    environ = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    links = environ.get("UV_FIND_LINKS") or _pip_find_links()
    if links:
        environ["UV_FIND_LINKS"] = links
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=_INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(
            f"the {name} environment was not installed within {_INSTALL_SECONDS} s; check the "
            "network to the package index, or make it beforehand"
        ) from error
    if done.returncode:
        hint = "the package index must be reachable once, or UV_FIND_LINKS name a folder of wheels"
        if name == "pytorch":
            hint += "; PyTorch's CPU wheels are on its own index: set UV_TORCH_BACKEND=cpu"
        raise ToolchainError(
            f"the {name} environment cannot be installed: {one_line(done.stderr)}; {hint}"
        )


def _pip_find_links() -> str | None:
    """Return the folders of wheels that this machine's pip is set to look in; uv reads its own."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"^[^=]*\.find-links='(.*)'$", listed.stdout, re.MULTILINE)
    folders = dict.fromkeys(part for line in found for part in line.replace("\\n", " ").split())
    return ",".join(folders) or None


def _base_python() -> str:
    """Return the interpreter that this one's environment was made from."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys.base_prefix) / "bin" / version
    return str(base if base.exists() else Path(sys.executable))


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise ToolchainError(
            "uv is not installed, which makes the frameworks' environments; pip install uv"
        )
    return found
