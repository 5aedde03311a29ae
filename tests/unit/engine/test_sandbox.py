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


def test_time_ends_it_with_all_it_started(run: Run) -> None:
    code = "import os, time; os.fork(); os.setsid() if os.fork() else None; time.sleep(60)"
    assert run(code, seconds=1.0).code is None


def test_settings_from_the_environment(tmp_path: Path) -> None:
    from model_delivery_engine.errors import ToolchainError

    settings = CompilerSettings.from_environment(
        {"MODEL_DELIVERY_SANDBOX": "off", "MODEL_DELIVERY_CONVERSION_SECONDS": "7"}, tmp_path
    )
    assert (settings.sandbox, settings.limits.seconds) == (False, 7.0)
    assert settings.environments == tmp_path / "environments"
    assert settings.cache == tmp_path / "compilations"
    assert CompilerSettings.from_environment({"HOME": "/h"}).cache is None
    for name in ("MODEL_DELIVERY_SANDBOX", "MODEL_DELIVERY_CONVERSION_MEMORY"):
        with pytest.raises(ToolchainError, match=f"{name} is 'maybe'"):
            CompilerSettings.from_environment({name: "maybe"})
