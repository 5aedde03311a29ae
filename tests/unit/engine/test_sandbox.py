"""What a process in the sandbox can reach, and what ends it."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from model_delivery_engine.frameworks.sandbox import Ended, check_sandbox, run_sandboxed
from model_delivery_engine.settings import CompilerSettings, Limits

MIB = 1024**2
Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python in the sandbox, with `tmp_path / "result"` to write into."""
    (tmp_path / "result").mkdir()
    python = f"{sys.base_prefix}/bin/python3"

    def _run(code: str, **limits: float) -> Ended:
        return run_sandboxed(
            [python, "-c", code],
            read={},
            write={tmp_path / "result": "/result"},
            environ={"PATH": "/usr/bin:/bin"},
            limits=Limits(**{"seconds": 20.0, **limits}),  # type: ignore[arg-type]
        )

    return _run


def test_the_sandbox_works_here() -> None:
    check_sandbox()


def test_a_result_comes_out(tmp_path: Path, run: Run) -> None:
    assert run("open('/result/a', 'w').write('b'); print('said')") == Ended(0, "said\n")
    assert (tmp_path / "result" / "a").read_text() == "b"


def test_there_is_no_network(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert "refused" in run(code).log.lower() or "unreachable" in run(code).log.lower()


def test_nothing_of_the_users_is_there(tmp_path: Path, run: Run) -> None:
    (tmp_path / "secret").write_text("key")
    for path in (tmp_path / "secret", Path(__file__), Path("/etc/passwd"), Path("/root/.profile")):
        assert "No such file" in run(f"open({str(path)!r})").log


def test_the_system_cannot_be_written(run: Run) -> None:
    assert "Read-only" in run("open('/usr/planted', 'w')").log


def test_its_environment_is_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    assert "planted" not in run("import os; print(dict(os.environ))").log


def test_it_sees_no_other_process(run: Run) -> None:
    listed = run("import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))").log
    assert int(listed) <= 3


@pytest.mark.parametrize(
    ("code", "limits", "says"),
    [
        ("b = bytearray(2 * 1024**3)", {"memory_bytes": 256 * MIB}, "MemoryError"),
        ("open('/result/a', 'wb').write(bytes(9 * 1024**2))", {"file_bytes": MIB}, "too large"),
        ("f = [open('/dev/null') for _ in range(200)]", {"open_files": 64}, "Too many open"),
    ],
)
def test_a_limit_ends_what_passes_it(
    run: Run, code: str, limits: dict[str, float], says: str
) -> None:
    ended = run(code, **limits)
    assert ended.code != 0
    assert says in ended.log


HOLD = "b = bytearray(os.urandom(1024)) * (150 * 1024)"  # 150 MiB


@pytest.mark.parametrize(
    ("code", "limits", "passed"),
    [
        (f"[os.fork() for _ in range(2)]; {HOLD}; time.sleep(60)", {}, "memory_bytes"),
        (
            "f = os.memfd_create('a')\nfor _ in range(300): os.write(f, bytes(1024**2))\n"
            "time.sleep(60)",
            {},
            "memory_bytes",
        ),
        ("[os.fork() for _ in range(4)]; time.sleep(60)", {"processes": 8}, "processes"),
        ("time.sleep(60)", {"seconds": 0.5}, "seconds"),
    ],
    ids=["children", "a file without a folder", "processes", "time"],
)
def test_a_limit_holds_for_all_its_processes_together(
    run: Run, code: str, limits: dict[str, float], passed: str
) -> None:
    ended = run(f"import os, time\n{code}", **{"memory_bytes": 256 * MIB, **limits})
    assert (ended.code, ended.limit) == (None, passed)


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_folders_in_memory_have_a_size(run: Run, folder: str) -> None:
    code = f"f = open('{folder}/a', 'wb')\nfor _ in range(256): f.write(bytes(1024**2))"
    ended = run(code, memory_bytes=256 * MIB)
    assert (ended.code, ended.limit) == (1, None)
    assert "No space left on device" in ended.log
    # And what it may hold can be written.
    assert (
        run(f"open('{folder}/a', 'wb').write(bytes(8 * 1024**2))", memory_bytes=256 * MIB).code == 0
    )


@pytest.mark.parametrize("folder", ["/", "/dev", "/proc"])
def test_no_other_folder_in_memory_is_there(run: Run, folder: str) -> None:
    assert run(f"open('{folder}/planted', 'w')").code == 1


def test_it_cannot_make_itself_another_room(run: Run) -> None:
    code = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))"  # CLONE_NEWUSER
    assert run(code).log == "-1\n"


def test_what_it_prints_without_end_is_cut(run: Run) -> None:
    ended = run("for _ in range(200_000): print('x' * 99)\nprint('last')")
    assert ended.log.endswith("last\n")
    assert len(ended.log) <= 64 * 1024


def test_settings_from_the_environment(tmp_path: Path) -> None:
    from model_delivery_engine.errors import ToolchainError

    settings = CompilerSettings.from_environment(
        {"MODEL_DELIVERY_SANDBOX": "off", "MODEL_DELIVERY_CONVERSION_SECONDS": "7"}, tmp_path
    )
    assert (settings.sandbox, settings.limits.seconds) == (False, 7.0)
    assert settings.environments == tmp_path / "environments"
    assert settings.cache == tmp_path / "compilations"
    assert settings.cache_bytes == 10 * 1024**3
    sized = CompilerSettings.from_environment({"MODEL_DELIVERY_COMPILE_CACHE_BYTES": "5e6"})
    assert sized.cache_bytes == 5_000_000
    assert CompilerSettings.from_environment({"HOME": "/h"}).cache is None
    for name in (
        "MODEL_DELIVERY_SANDBOX",
        "MODEL_DELIVERY_CONVERSION_MEMORY",
        "MODEL_DELIVERY_COMPILE_CACHE_BYTES",
    ):
        with pytest.raises(ToolchainError, match=f"{name} is 'maybe'"):
            CompilerSettings.from_environment({name: "maybe"})
