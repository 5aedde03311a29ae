"""Finished compilations, by the digests of all that went into them.

The key covers the model's archive, DataInputConfig, options, every file they name, the target, the
toolchain with the frameworks' pinned packages, and the machine, whose figures the bundle carries.
The model's name and where it came from are no part of it: they are written anew.
"""

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from model_delivery_engine.bundle import Bundle, open_bundle, write_bundle
from model_delivery_engine.compile.request import CompilationRequest
from model_delivery_engine.compile.toolchain import toolchain
from model_delivery_engine.digest import digest_bytes, digest_file
from model_delivery_engine.errors import EngineError
from model_delivery_engine.frameworks import FRAMEWORKS
from model_delivery_engine.frameworks.environment import environment_digest
from model_delivery_engine.latency import describe_machine
from model_delivery_engine.manifest import Manifest

log = logging.getLogger(__name__)


def cache_key(archive: Path, request: CompilationRequest, files: Mapping[str, Path]) -> str:
    """Return the digest that a compilation is kept by.

    :param files: what the options name, by URI
    """
    module = FRAMEWORKS.get(request.framework)
    environment = getattr(module, "ENVIRONMENT", None)
    parts = {
        "archive": digest_file(archive),
        "framework": request.framework,
        "data_input_config": request.data_input_config,
        "options": _sorted(request.compiler_options),
        "files": {uri: digest_file(path) for uri, path in sorted(files.items())},
        "target": dataclasses.asdict(request.target),
        "toolchain": toolchain(),
        "environment": environment_digest(environment) if environment else None,
        "machine": describe_machine(),
    }
    return digest_bytes(json.dumps(parts, sort_keys=True).encode())


def _sorted(options: str | None) -> str:
    return json.dumps(json.loads(options or "{}"), sort_keys=True)


class CompileCache:
    """Bundles in a folder, one file a key; several processes may share it.

    :param folder: made when first written to
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, key: str, bundle: Path, request: CompilationRequest) -> Manifest | None:
        """Write the bundle of an earlier compilation under this request's name.

        :returns: its manifest, or None if there is none; one that fails its digests is dropped
        """
        kept = self._path(key)
        if not kept.is_file():
            return None
        with tempfile.TemporaryDirectory(prefix="cached-") as folder:
            try:
                opened = open_bundle(kept, Path(folder) / "bundle")
            except EngineError as error:
                log.warning("the cache's %s is dropped: %s", kept.name, error)
                kept.unlink(missing_ok=True)
                return None
            return _rewrite(opened, bundle, request)

    def keep(self, key: str, bundle: Path) -> None:
        """Keep a finished bundle."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder)
        os.close(handle)
        shutil.copyfile(bundle, name)
        Path(name).replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key.removeprefix('sha256:')}.tar.gz"


def _rewrite(opened: Bundle, bundle: Path, request: CompilationRequest) -> Manifest:
    source = dataclasses.replace(opened.manifest.source, uri=request.source_uri)
    return write_bundle(
        bundle,
        model=opened.model_path,
        manifest=dataclasses.replace(opened.manifest, name=request.name, source=source),
        golden_inputs=opened.golden_inputs,
        golden_outputs=opened.golden_outputs,
    )
