"""What a user installs: wheels alone in an empty environment, outside this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
SECONDS = 600  # from a cold cache an environment downloads a few hundred megabytes
PACKAGES = {
    "model-delivery": PROJECT / "plugins" / "model_delivery",
    "model-delivery-engine": PROJECT / "include" / "engine" / "model_delivery_engine",
    "model-delivery-edge": PROJECT / "include" / "edge" / "model_delivery_edge",
}
DAG_FILE = """
from airflow.sdk import DAG
from model_delivery.operators.compilation import CreateCompilationJobOperator
from model_delivery.operators.edge import EdgeInferenceOperator

with DAG("users_own") as dag:
    compiled = CreateCompilationJobOperator(
        task_id="compile",
        role_arn="arn:aws:iam::000000000000:role/compiler",
        model_uri="s3://users/model.tar.gz",
        framework="ONNX",
        data_input_config={"image": [-1, 64]},
        output_uri="s3://users/compiled/",
        target_device="ml_c5",
    )
    smoke = EdgeInferenceOperator(
        task_id="smoke",
        results_uri="s3://users/results.jsonl",
        input_uri="s3://users/input.jsonl",
        model_name="digits",
        digest="{{ ti.xcom_pull('compile')['output_uri'] }}",
    )
    compiled >> smoke
"""
LOAD_DAGS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

bag = DagBag(sys.argv[1])
links = {}
for dag in bag.dags.values():
    for task in DagSerialization.from_dict(DagSerialization.to_dict(dag)).tasks:
        links[task.task_id] = list(task.operator_extra_link_dict)
print(json.dumps({"errors": bag.import_errors, "links": links}))
"""
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [found.name for found in pkgutil.walk_packages(package.__path__, sys.argv[1] + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), package.__file__)
"""


class Environment:
    """A virtual environment that holds wheels and their dependencies, run in a home of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.bin = folder / "bin"
        self.home = home
        self.env = {
            "PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }

    def run(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.bin / program), *arguments],
            env=self.env, cwd=self.home, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def printed(self, program: str, *arguments: str) -> str:
        done = self.run(program, *arguments)
        assert done.returncode == 0, f"{program} {arguments[:3]}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def airflow(self, *arguments: str) -> list[dict[str, Any]]:
        # Airflow may log lines before the table it was asked for.
        text = self.printed("airflow", *arguments, "-o", "json")
        found = re.search(r"^\[.*", text, re.MULTILINE | re.DOTALL)
        assert found, text
        return list(json.loads(found[0]))

    def installed(self) -> set[str]:
        text = uv("pip", "list", "--format", "json", "--python", str(self.bin / "python"))
        return {item["name"] for item in json.loads(text)}


def uv(*arguments: str) -> str:
    # Not ours to inherit: an active environment would be the one installed into.
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = subprocess.run(
        [str(UV), *arguments],
        env=env, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"uv {arguments[:2]}:\n{done.stderr}"
    return done.stdout


def build_wheel(project: Path, into: Path) -> Path:
    """Build with the environment's own hatchling: an isolated build would ask an index for it."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)],
        cwd=project, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [wheel] = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build provider, engine and edge; return each wheel by its distribution's name."""
    folders = {
        "model-delivery": PROJECT,
        "model-delivery-engine": PROJECT / "include" / "engine",
        "model-delivery-edge": PROJECT / "include" / "edge",
    }
    return {
        name: build_wheel(folder, tmp_path_factory.mktemp(name)) for name, folder in folders.items()
    }


def find_python(version: str) -> Path | None:
    """Return an interpreter of that version that starts: a version manager's shim may not."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = subprocess.run(
        [str(UV), "python", "find", version], capture_output=True, text=True, check=False
    )
    candidates = [found.stdout.strip(), shutil.which(name)]
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}*/bin/{name}"))]
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        asked = subprocess.run(
            [candidate, "-c", program], capture_output=True, text=True, check=False
        )
        if asked.stdout.strip() == version:
            return Path(candidate)
    return None


@pytest.fixture(scope="session")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the versions of constraints.txt without hashes: our own wheels have none to check."""
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    versions = [line.removesuffix("\\").strip() for line in lines if line[:1].isalnum()]
    assert versions
    path = tmp_path_factory.mktemp("constraints") / "versions.txt"
    path.write_text("\n".join(versions) + "\n")
    return path


Install = Callable[[str, Path, Sequence[Path]], Environment]


@pytest.fixture(scope="session")
def install(constraints: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    def install_wheels(name: str, python: Path, wheels: Sequence[Path]) -> Environment:
        folder = PROJECT / "build" / name
        uv("venv", "--quiet", "--clear", "--python", str(python), str(folder))
        inside = str(folder / "bin" / "python")
        uv("pip", "install", "--quiet", "--python", inside, "-c", str(constraints),
           *(str(wheel) for wheel in wheels))  # fmt: skip
        return Environment(folder, tmp_path_factory.mktemp(f"home-{name}"))

    return install_wheels


@pytest.fixture(scope="session", params=["3.11", "3.12"])
def provider(
    request: pytest.FixtureRequest, install: Install, wheels: dict[str, Path]
) -> Environment:
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} on this machine: neither PATH, pyenv nor uv has it")
    needed = [wheels["model-delivery"], wheels["model-delivery-engine"]]
    return install(f"wheel-{request.param}", python, needed)


@pytest.fixture(scope="session")
def edge(install: Install, wheels: dict[str, Path]) -> Environment:
    needed = [wheels["model-delivery-edge"], wheels["model-delivery-engine"]]
    return install("wheel-edge", Path(sys.executable), needed)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_wheel_holds_every_file_of_its_package(wheels: dict[str, Path], name: str) -> None:
    package = PACKAGES[name]
    held = {item for item in zipfile.ZipFile(wheels[name]).namelist() if ".dist-info/" not in item}
    assert held == {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.timeout(SECONDS)
def test_the_provider_is_listed_with_its_connection_type_and_links(provider: Environment) -> None:
    listed = {item["package_name"]: item for item in provider.airflow("providers", "list")}
    assert listed["model-delivery"]["version"] == "0.1.0"
    hooks = {item["connection_type"]: item for item in provider.airflow("providers", "hooks")}
    hook = hooks["model_delivery_edge"]
    assert hook["class"] == "model_delivery.hooks.edge.EdgeInferenceHook"
    assert hook["package_name"] == "model-delivery"
    links = {item["extra_link_class_name"] for item in provider.airflow("providers", "links")}
    assert {
        "model_delivery.links.job.JobLink",
        "model_delivery.links.report.DeliveryReportLink",
    } <= links


@pytest.mark.timeout(SECONDS)
def test_the_plugin_is_loaded_from_its_entry_point(provider: Environment) -> None:
    plugins = {item["name"]: item for item in provider.airflow("plugins")}
    assert "model_delivery" in plugins
    assert "model-delivery==0.1.0" in plugins["model_delivery"]["source"]


@pytest.mark.timeout(SECONDS)
def test_a_users_dag_file_loads(provider: Environment, tmp_path: Path) -> None:
    (tmp_path / "users_own.py").write_text(DAG_FILE)
    loaded = json.loads(
        provider.printed("python", "-c", LOAD_DAGS, str(tmp_path)).strip().splitlines()[-1]
    )
    assert loaded["errors"] == {}
    assert set(loaded["links"]) == {"compile", "smoke"}
    assert loaded["links"]["compile"], "the compilation job's link was lost in serialisation"


@pytest.mark.timeout(SECONDS)
def test_the_wheel_declares_all_that_its_modules_import(provider: Environment) -> None:
    told = provider.printed("python", "-c", IMPORT_ALL, "model_delivery").split()
    assert int(told[-2]) == len(list(PACKAGES["model-delivery"].rglob("*.py"))) - 1
    assert Path(told[-1]).is_relative_to(provider.bin.parent)


@pytest.mark.timeout(SECONDS)
def test_the_provider_brings_neither_localcloud_nor_the_edge_agent(provider: Environment) -> None:
    for package in ("model_delivery_localcloud", "model_delivery_edge"):
        done = provider.run("python", "-c", f"import {package}")
        assert done.returncode == 1
        assert f"No module named '{package}'" in done.stderr


@pytest.mark.timeout(SECONDS)
def test_a_device_gets_no_airflow_no_cloud_sdk_and_no_compiler(edge: Environment) -> None:
    installed = edge.installed()
    assert {"model-delivery-edge", "model-delivery-engine", "onnxruntime"} <= installed
    heavy = ("airflow", "boto", "azure", "onnx", "pandas", "matplotlib", "model-delivery")
    assert {name for name in installed if any(part in name for part in heavy)} == {
        "model-delivery-edge", "model-delivery-engine", "onnxruntime",
    }  # fmt: skip


@pytest.mark.timeout(SECONDS)
def test_the_agent_imports_on_a_device(edge: Environment) -> None:
    told = edge.printed("python", "-c", IMPORT_ALL, "model_delivery_edge").split()
    assert int(told[-2]) == len(list(PACKAGES["model-delivery-edge"].rglob("*.py"))) - 1
    assert Path(told[-1]).is_relative_to(edge.bin.parent)
