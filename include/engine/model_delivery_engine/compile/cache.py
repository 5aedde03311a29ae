"""Finished compilations, by the digests of all that went into them.

The key covers the model's archive, DataInputConfig, options, every file they name, the target, this
package's own files, the toolchain with the frameworks' pinned packages, whether the owner lets
archives run code, and the machine, whose figures the bundle carries: with its vector instructions
where the model is compiled for them. The model's name and where it came from are no part of it:
they are written anew.

The cache saves time and is never needed: what goes wrong with it is a line in the log. What lacks a
proof for want of time is not kept, since it would come back for ever, on an idle machine too.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from model_delivery_engine.bundle import Bundle, open_bundle, write_bundle
from model_delivery_engine.compile.request import CompilationRequest
from model_delivery_engine.compile.toolchain import engine_digest, toolchain
from model_delivery_engine.digest import digest_bytes, digest_file
from model_delivery_engine.errors import DiskFullError, EngineError
from model_delivery_engine.frameworks import FRAMEWORKS
from model_delivery_engine.frameworks.environment import environment_digest
from model_delivery_engine.latency import describe_machine, instruction_sets
from model_delivery_engine.manifest import Manifest
from model_delivery_engine.options import parse_compiler_options
from model_delivery_engine.settings import CompilerSettings

log = logging.getLogger(__name__)

_ENDING = ".tar.gz"
_PARTIAL = ".partial-"
_ABANDONED_SECONDS = 3600.0  # no copy of a bundle takes that long


def cache_key(
    archive: Path,
    request: CompilationRequest,
    files: Mapping[str, Path],
    settings: CompilerSettings,
) -> str:
    """Return the digest that a compilation is kept by.

    :param files: what the options name, by URI
    :raises OptionsError: malformed CompilerOptions
    """
    for_host = parse_compiler_options(request.compiler_options).optimise_for == "host"
    module = FRAMEWORKS.get(request.framework)
    environment = getattr(module, "ENVIRONMENT", None)
    parts = {
        "archive": digest_file(archive),
        "framework": request.framework,
        "data_input_config": request.data_input_config,
        "options": _sorted(request.compiler_options),
        "files": {uri: digest_file(path) for uri, path in sorted(files.items())},
        "target": dataclasses.asdict(request.target),
        "engine": engine_digest(),
        "toolchain": toolchain(),
        "environment": environment_digest(environment) if environment else None,
        "allow_code": settings.allow_code,
        "machine": describe_machine(),
        "instructions": instruction_sets() if for_host else None,
    }
    return digest_bytes(json.dumps(parts, sort_keys=True).encode())


def _sorted(options: str | None) -> str:
    return json.dumps(json.loads(options or "{}"), sort_keys=True)


class CompileCache:
    """Bundles in a folder, one file a key; several processes may share it.

    :param folder: made when first written to
    :param most_bytes: size of all bundles together; the ones not used for longest make room
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def restore(self, key: str, bundle: Path, request: CompilationRequest) -> Manifest | None:
        """Write the bundle of an earlier compilation under this request's name.

        :returns: its manifest, or None if there is none; one that fails its digests is dropped
        :raises DiskFullError: no space to open it
        """
        kept = self._path(key)
        try:
            os.utime(kept)  # used now
        except OSError:
            return None
        with tempfile.TemporaryDirectory(prefix="cached-") as folder:
            try:
                opened = open_bundle(kept, Path(folder) / "bundle")
            except DiskFullError:
                raise
            except EngineError as error:
                log.warning("the cache's %s is dropped: %s", kept.name, error)
                kept.unlink(missing_ok=True)
                return None
            return _rewrite(opened, bundle, request)

    def keep(self, key: str, bundle: Path) -> None:
        """Keep a finished bundle, where there is room for it."""
        try:
            self._keep(key, bundle)
        except OSError as error:
            log.warning("the cache in %s does not keep this bundle: %s", self._folder, error)

    def _keep(self, key: str, bundle: Path) -> None:
        size = bundle.stat().st_size
        if size > self._most_bytes:
            log.info("a bundle of %d bytes is larger than the cache may be", size)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        self._make_room(self._most_bytes - size)
        handle, name = tempfile.mkstemp(prefix=_PARTIAL, dir=self._folder)
        os.close(handle)
        try:
            shutil.copyfile(bundle, name)
            Path(name).replace(self._path(key))
        finally:
            Path(name).unlink(missing_ok=True)
        self._make_room(self._most_bytes)  # another process may have kept one meanwhile

    def _make_room(self, most_bytes: int) -> None:
        """Remove the bundles not used for longest until the others have the size."""
        found = []
        for path in self._folder.glob(f"*{_ENDING}"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= most_bytes:
                break
            log.info("the cache removes %s, %d bytes", path.name, size)
            path.unlink(missing_ok=True)
            total -= size

    def _remove_abandoned(self) -> None:
        """Remove what a process that was killed had copied in part."""
        for path in self._folder.glob(f"{_PARTIAL}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key.removeprefix('sha256:')}{_ENDING}"


def _rewrite(opened: Bundle, bundle: Path, request: CompilationRequest) -> Manifest:
    source = dataclasses.replace(opened.manifest.source, uri=request.source_uri)
    return write_bundle(
        bundle,
        model=opened.model_path,
        manifest=dataclasses.replace(opened.manifest, name=request.name, source=source),
        golden_inputs=opened.golden_inputs,
        golden_outputs=opened.golden_outputs,
    )
