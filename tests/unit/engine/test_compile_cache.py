"""The cache of finished compilations: what it goes by, how large it gets, what may go wrong."""

import dataclasses
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from model_delivery_engine import latency, probes
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.compile.cache import CompileCache, cache_key
from model_delivery_engine.compile.toolchain import engine_digest
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.targets import Target

from tests.unit.engine.conftest import save_linear

CONFIG = '{"features": [-1, 4]}'
HOST = '{"optimise_for": "host"}'


@pytest.fixture
def archive(tmp_path: Path, pack: Callable[[Path], Path]) -> Path:
    return pack(save_linear(tmp_path / "model" / "model.onnx"))


@pytest.fixture
def request_(target: Target) -> CompilationRequest:
    return CompilationRequest("ONNX", CONFIG, target, "linear", "s3://bucket/model.tar.gz")


@pytest.fixture
def settings(tmp_path: Path) -> CompilerSettings:
    return CompilerSettings(tmp_path / "environments", tmp_path / "cache")


def test_the_same_request_again_is_taken_from_it(
    tmp_path: Path, archive: Path, request_: CompilationRequest, settings: CompilerSettings
) -> None:
    first = compile_model(archive, tmp_path / "a.tar.gz", request_, settings=settings)
    renamed = dataclasses.replace(request_, name="other", source_uri="s3://bucket/b.tar.gz")
    again = compile_model(archive, tmp_path / "b.tar.gz", renamed, settings=settings)
    assert again.latency == first.latency  # measured once
    assert (again.name, again.source.uri) == ("other", "s3://bucket/b.tar.gz")


def test_what_the_owner_allows_is_part_of_the_key(
    archive: Path, request_: CompilationRequest, settings: CompilerSettings
) -> None:
    allowing = dataclasses.replace(settings, allow_code=True)
    keys = {cache_key(archive, request_, {}, each) for each in (settings, allowing)}
    assert len(keys) == 2


def test_what_there_was_no_time_to_prove_is_not_kept(
    tmp_path: Path,
    archive: Path,
    request_: CompilationRequest,
    settings: CompilerSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(probes, "SECONDS", -1.0)
        first = compile_model(archive, tmp_path / "a.tar.gz", request_, settings=settings)
    assert first.parity is not None
    assert f"signed: {probes.NO_TIME}" in first.parity.left_out
    again = compile_model(archive, tmp_path / "b.tar.gz", request_, settings=settings)
    assert again.parity is not None
    assert again.parity.left_out == ()
    assert "signed" in again.parity.proved


@pytest.mark.parametrize(("options", "keys"), [(HOST, 2), (None, 1)])
def test_instructions_are_part_of_the_key_where_they_are_compiled_for(
    archive: Path,
    request_: CompilationRequest,
    settings: CompilerSettings,
    monkeypatch: pytest.MonkeyPatch,
    options: str | None,
    keys: int,
) -> None:
    asked = dataclasses.replace(request_, compiler_options=options)
    found = set()
    for flags in ("fpu sse2 avx2 avx512_vnni", "fpu sse2 avx2"):
        said = {"model name": "AMD EPYC", "flags": flags}
        monkeypatch.setattr(latency, "_cpuinfo", lambda field, said=said: said.get(field, ""))
        found.add(cache_key(archive, asked, {}, settings))
    assert len(found) == keys


def test_the_engines_own_files_are_part_of_the_key(
    tmp_path: Path,
    archive: Path,
    request_: CompilationRequest,
    settings: CompilerSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "engine"
    (package / "frameworks").mkdir(parents=True)
    (package / "frameworks" / "keras.py").write_text("OPSET = 17\n")
    before = engine_digest(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "keras.pyc").write_bytes(b"\0")
    copied = tmp_path / "copied"
    shutil.copytree(package, copied)
    assert engine_digest(copied) == before
    (copied / "frameworks" / "keras.py").write_text("OPSET = 18\n")
    engine_digest.cache_clear()
    after = engine_digest(copied)
    assert after != before
    key = cache_key(archive, request_, {}, settings)
    monkeypatch.setattr("model_delivery_engine.compile.cache.engine_digest", lambda: after)
    assert cache_key(archive, request_, {}, settings) != key


def test_a_cache_that_cannot_be_written_loses_no_compilation(
    tmp_path: Path, archive: Path, request_: CompilationRequest, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    settings = CompilerSettings(tmp_path / "environments", tmp_path / "file" / "cache")
    bundle = tmp_path / "bundle.tar.gz"
    compile_model(archive, bundle, request_, settings=settings)
    assert open_bundle(bundle, tmp_path / "opened").manifest.name == "linear"
    assert "does not keep this bundle" in caplog.text


def test_what_was_copied_in_part_does_not_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bundle").write_bytes(bytes(100_000))
    cache = CompileCache(tmp_path / "cache", 10**6)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as a disk that fills up
    try:
        cache.keep("sha256:a", tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "does not keep" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "cache", 10**6)
    old, new = (tmp_path / "cache" / f".partial-{name}" for name in ("old", "new"))
    (tmp_path / "cache").mkdir()
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (0, 0))
    (tmp_path / "bundle").write_bytes(b"whole")
    cache.keep("sha256:a", tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        ".partial-new", "a.tar.gz",
    ]  # fmt: skip


def test_the_bundles_not_used_for_longest_make_room(
    tmp_path: Path, archive: Path, request_: CompilationRequest, settings: CompilerSettings
) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    compile_model(archive, bundle, request_, settings=dataclasses.replace(settings, cache=None))
    size = bundle.stat().st_size
    cache = CompileCache(tmp_path / "cache", 2 * size + size // 2)
    for age, key in enumerate("ab"):
        cache.keep(f"sha256:{key}", bundle)
        os.utime(tmp_path / "cache" / f"{key}.tar.gz", (1000 + age, 1000 + age))
    assert cache.restore("sha256:a", tmp_path / "restored", request_) is not None
    cache.keep("sha256:c", bundle)
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert kept == ["a.tar.gz", "c.tar.gz"]  # b was used last before a


def test_a_bundle_larger_than_the_cache_drops_no_other(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "cache", 1000)
    for key, size in (("a", 900), ("b", 1001)):
        (tmp_path / key).write_bytes(bytes(size))
        cache.keep(f"sha256:{key}", tmp_path / key)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a.tar.gz"]
