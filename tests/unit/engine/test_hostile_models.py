"""Models that run code while they are loaded, where the owner allows it: the limits still hold."""

import dataclasses
import pickle
import re
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

from tests.unit.engine.conftest import save_linear

ALLOWING = dataclasses.replace(CompilerSettings.from_environment(), allow_code=True, cache=None)
MIB = 2**20


class Runs:
    """An object whose pickle runs a text of Python."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return exec, (self._code, {})


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


FORGE = """
import json, os, numpy, onnx, pathlib
from onnx import helper, TensorProto
def write(name='model.onnx'):
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ['n', 4]) for n in 'xy']
    node = helper.make_node('Relu', ['x'], ['y'])
    graph = helper.make_graph([node], 'g', ends[:1], ends[1:])
    imports = [helper.make_opsetid('', 18)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), '/result/' + name)
def keep(number, **arrays):
    os.makedirs('/result/reference', exist_ok=True)
    named = {k.replace('_', ':'): v for k, v in arrays.items()}
    numpy.savez(f'/result/reference/{number}.npz', **named)
def say(**more):
    told = {'ok': True, 'answered': ['unit'], 'left_out': {}, **more}
    pathlib.Path('/result/outcome.json').write_text(json.dumps(told))
def leave(): os._exit(0)
zeros = numpy.zeros((4, 4), 'f')
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("say(); os.symlink('SECRET', '/result/model.onnx')",
         "left what none leaves: a link, pipe or other special file"),
        ("write(); say(); os.mkfifo('/result/reference')", "a link, pipe or other special file"),
        ("write(); os.symlink('SECRET', '/result/outcome.json')", "a link, pipe"),
        ("os.chdir('/result')\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')",
         "folders 8 deep|a folder cannot be read"),
        ("write(); say(answered=[])", "no answers to 'unit'"),
        ("write(); say(answered=['unit', 'mine']); keep(0); keep(1)", "answers to 'mine', which"),
        ("write(); say(answered=['unit', 'unit'])", "two answers to the same"),
        ("write(); say(answered=5)", "outcome.json cannot be read"),
        ("write(); say(left_out=[1])", "outcome.json cannot be read"),
        ("say(ok=False, reason='NO_SUCH_REASON')", "outcome.json cannot be read"),
        ("pathlib.Path('/result/outcome.json').write_text('[' * 10**5)", "outcome.json cannot be"),
        ("write(); say(error='x' * 2**21)", "outcome.json of more than"),
        ("write(); say(); keep(0, **{'0_inputs_x': zeros, '0_expected_y': zeros})",
         "answered other inputs than 'unit' draws"),
        ("write(); say(); keep(0, **{'0_inputs_x': zeros, '1_expected_y': zeros})",
         "answer different outputs"),
        ("write(); say(); keep(0, **{'0_inputs_x': zeros, '0_noise_y': zeros.astype(str)})",
         "noise of the data type"),
        ("write(); say(); os.mkdir('/result/reference'); "
         "pathlib.Path('/result/reference/0.npz').write_bytes(b'PK')", "answers that cannot"),
        ("say(ok=False, error='\\ud800 odd')", "SKLEARN model cannot be converted: . odd"),
    ],
)  # fmt: skip
def test_nothing_that_it_left_is_followed_or_taken_on_trust(
    tmp_path: Path, load: Callable[[str, CompilerSettings], CompilationError], code: str, says: str
) -> None:
    """The link leads to a model that is there, outside."""
    secret = tmp_path / "secret.onnx"
    save_linear(secret)
    refused = load(FORGE + code.replace("SECRET", str(secret)) + "\nleave()", ALLOWING)
    assert re.search(says, str(refused)), refused
    str(refused).encode()


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(200): open(f'/result/{n}', 'wb').write(bytes(2**20))",
        "import os\nheld = []\nfor n in range(200):\n    held.append(open('/result/a', 'wb'))\n"
        "    held[-1].write(bytes(2**20)); held[-1].flush(); os.remove('/result/a')",
    ],
    ids=["files", "files without a name"],
)
def test_what_it_writes_to_the_disk_has_a_limit(
    load: Callable[[str, CompilerSettings], CompilationError], code: str
) -> None:
    limits = Limits(seconds=100.0, written_bytes=64 * MIB)
    refused = load(
        f"import time\n{code}\ntime.sleep(90)", dataclasses.replace(ALLOWING, limits=limits)
    )
    assert "wrote more than the 64 MiB of MODEL_DELIVERY_CONVERSION_DISK" in str(refused)


def test_native_code_that_breaks_is_no_lack_of_memory(
    load: Callable[[str, CompilerSettings], CompilationError],
) -> None:
    refused = load("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ALLOWING)
    assert "the archive broke SKLEARN itself (SIGSEGV)" in str(refused)
    assert "memory" not in str(refused)


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
