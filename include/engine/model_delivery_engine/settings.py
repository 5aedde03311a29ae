"""Settings of the machine that compiles: what its owner allows, where it keeps things, limits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from model_delivery_engine.errors import Reason, ToolchainError

GIB = 1024**3
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


@dataclass(frozen=True)
class Limits:
    """What one conversion in the sandbox may use, and what works on its result outside.

    :param seconds: wall-clock time, and outside that of one run of the source model (default: 900;
        ``MODEL_DELIVERY_CONVERSION_SECONDS``)
    :param memory_bytes: private memory, of each process and of all together; outside what the
        process takes beyond what it had (default: 8 GiB; ``MODEL_DELIVERY_CONVERSION_MEMORY``)
    :param file_bytes: size of each file it writes (default: 4 GiB)
    :param written_bytes: all that it writes to the disk (default: 8 GiB;
        ``MODEL_DELIVERY_CONVERSION_DISK``)
    :param open_files: files open at a time (default: 1024)
    :param processes: processes at a time (default: 256)
    :param archive_bytes: a model's archive, unpacked (default: 4 GiB;
        ``MODEL_DELIVERY_ARCHIVE_BYTES``)
    """

    seconds: float = 900.0
    memory_bytes: int = 8 * GIB
    file_bytes: int = 4 * GIB
    open_files: int = 1024
    processes: int = 256
    archive_bytes: int = 4 * GIB
    written_bytes: int = 8 * GIB


@dataclass(frozen=True)
class CompilerSettings:
    """What `compile_model` may do on this machine.

    :param environments: folder of the frameworks' environments, and of the locks by which jobs
        that have it in common are timed in turns (``MODEL_DELIVERY_ENVIRONMENTS``; default:
        ``model-delivery/environments`` in the user's cache folder)
    :param cache: folder of finished compilations, None to keep none
        (``MODEL_DELIVERY_COMPILE_CACHE``, empty for none; default: none)
    :param cache_bytes: size that the cache is held to
        (``MODEL_DELIVERY_COMPILE_CACHE_BYTES``; default: 10 GiB)
    :param sandbox: load models in bubblewrap only (``MODEL_DELIVERY_SANDBOX``; default: on)
    :param allow_code: load raw pickles and Keras layers with code of their own, which run the code
        of whoever wrote the archive (``MODEL_DELIVERY_ALLOW_CODE``; default: off)
    """

    environments: Path
    cache: Path | None = None
    cache_bytes: int = 10 * GIB
    sandbox: bool = True
    allow_code: bool = False
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, home: Path | None = None
    ) -> Self:
        """Read the settings.

        :param environ: the variables (default: the process's)
        :param home: a server's own folder, for environments and a cache where no variable names
            another place
        :raises ToolchainError: names the variable that is wrong
        """
        env = os.environ if environ is None else environ
        environments = env.get("MODEL_DELIVERY_ENVIRONMENTS")
        cache = env.get("MODEL_DELIVERY_COMPILE_CACHE")
        if cache is None and home is not None:
            cache = str(home / "compilations")
        usual = Limits()
        return cls(
            environments=Path(environments or (home or _user_cache(env)) / "environments"),
            cache=Path(cache) if cache else None,
            cache_bytes=int(_number(env, "MODEL_DELIVERY_COMPILE_CACHE_BYTES", cls.cache_bytes)),
            sandbox=_switch(env, "MODEL_DELIVERY_SANDBOX", True),
            allow_code=_switch(env, "MODEL_DELIVERY_ALLOW_CODE", False),
            limits=Limits(
                seconds=_number(env, "MODEL_DELIVERY_CONVERSION_SECONDS", usual.seconds),
                memory_bytes=int(
                    _number(env, "MODEL_DELIVERY_CONVERSION_MEMORY", usual.memory_bytes)
                ),
                archive_bytes=int(
                    _number(env, "MODEL_DELIVERY_ARCHIVE_BYTES", usual.archive_bytes)
                ),
                written_bytes=int(
                    _number(env, "MODEL_DELIVERY_CONVERSION_DISK", usual.written_bytes)
                ),
            ),
        )


def _user_cache(env: Mapping[str, str]) -> Path:
    folder = env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or "/tmp") / ".cache"
    return Path(folder) / "model-delivery"


def _switch(env: Mapping[str, str], name: str, usual: bool) -> bool:
    value = env.get(name, "").strip().lower()
    if value and value not in (*_TRUE, *_FALSE):
        raise ToolchainError(f"{name} is {value!r}; set it to on or off", reason=Reason.UNSPECIFIED)
    return value in _TRUE if value else usual


def _number(env: Mapping[str, str], name: str, usual: float) -> float:
    text = env.get(name, "").strip()
    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ToolchainError(
            f"{name} is {text!r}; set it to a positive number", reason=Reason.UNSPECIFIED
        )
    return value
