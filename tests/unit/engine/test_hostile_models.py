"""Models that run code while they are loaded, where the owner allows it: the limits still hold."""

import dataclasses
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.errors import CompilationError, Reason
from model_delivery_engine.settings import CompilerSettings, Limits
from model_delivery_engine.targets import Target

ALLOWING = dataclasses.replace(CompilerSettings.from_environment(), allow_code=True, cache=None)
MIB = 2**20


class Runs:
    """An object whose pickle runs a text of Python."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return exec, (self._code,)


@pytest.fixture
def load(tmp_path: Path, target: Target) -> Callable[[str, CompilerSettings], CompilationError]:
    """Compile a pickle that runs a text; return why it was refused."""

    def _load(code: str, settings: CompilerSettings) -> CompilationError:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.pkl").write_bytes(pickle.dumps(Runs(code)))
        pack_archive(tmp_path / "model", tmp_path / "model.tar.gz")
        request = CompilationRequest("SKLEARN", "", target, "hostile", "s3://b/model.tar.gz")
        with pytest.raises(CompilationError) as refused:
            compile_model(
                tmp_path / "model.tar.gz", tmp_path / "b.tar.gz", request, settings=settings
            )
        return refused.value

    return _load


@pytest.mark.parametrize(
    ("code", "reason", "says"),
    [
        (
            "import os, time\n"
            "for _ in range(3):\n"
            "    if os.fork() == 0:\n"
            "        held = bytearray(b'x') * (400 * 2**20); time.sleep(120)\n"
            "time.sleep(120)",
            Reason.CONVERSION_MEMORY,
            "more than the 768 MiB of MODEL_DELIVERY_CONVERSION_MEMORY",
        ),
        (
            "import os, time\nfor _ in range(99):\n    if os.fork() == 0: time.sleep(120)",
            Reason.UNTRUSTED_CODE,
            "more than 32 processes",
        ),
        (
            "file = open('/tmp/a', 'wb')\nfor _ in range(400): file.write(bytes(2**20))",
            None,
            "No space left on device",
        ),
    ],
    ids=["memory of children", "processes", "a folder in memory"],
)
def test_what_it_starts_and_writes_counts(
    load: Callable[[str, CompilerSettings], CompilationError],
    code: str,
    reason: Reason | None,
    says: str,
) -> None:
    limits = Limits(seconds=100.0, memory_bytes=768 * MIB, processes=32)
    refused = load(code, dataclasses.replace(ALLOWING, limits=limits))
    assert says in str(refused)
    assert reason in (None, refused.reason)


def test_without_a_sandbox_what_it_leaves_goes_with_the_job(
    load: Callable[[str, CompilerSettings], CompilationError],
) -> None:
    mark = f"left-{uuid4().hex}"
    code = (
        "import os, pathlib, tempfile\n"
        f"tempfile.mkstemp(prefix={mark!r})\n"
        f"(pathlib.Path(os.environ['HOME']) / {mark!r}).touch()\n"
        "raise RuntimeError('it has run')"
    )
    refused = load(code, dataclasses.replace(ALLOWING, sandbox=False))
    assert "it has run" in str(refused)
    for folder in (Path("/tmp"), Path(tempfile.gettempdir()), Path.home()):
        assert list(folder.glob(f"{mark}*")) == []
