"""The agent's side of a probe: starts the process, watches its time and memory, ends it."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_delivery_engine.process_tree import end_tree, memory_of, tree_of

from model_delivery_edge.background import finish_in_thread
from model_delivery_edge.errors import DeploymentError, ProbeError
from model_delivery_edge.probe.child import RESULT
from model_delivery_edge.probe.limits import Limits

MIB = 1024 * 1024
_LOOK_SECONDS = 0.05
_SECRETS = "MODEL_DELIVERY_"


async def probe(archive: Path, name: str, limits: Limits, work: Path) -> dict[str, Any]:
    """Try a bundle's model in a process of its own.

    :param archive: the verified bundle
    :param name: how messages call it
    :param work: folder for what is extracted, which is gone when this returns
    :returns: the measurements: times in milliseconds, peak memory, versions, machine
    :raises ProbeError: the model crashed, hung, took too much, or answered other than it should
    :raises DeploymentError: the probe failed for no fault of the model
    """
    with tempfile.TemporaryDirectory(dir=work) as folder:
        code, log = await _run(archive, name, limits, Path(folder))
        try:
            result = json.loads((Path(folder) / RESULT).read_bytes())
        except (OSError, ValueError):
            raise ProbeError(
                f"{name} ended the process that probed it ({_ending(code)}): {log or 'no output'}; "
                "compile the model for this device's architecture"
            ) from None
    return _judge(result, name, limits)


async def _run(archive: Path, name: str, limits: Limits, folder: Path) -> tuple[int, str]:
    allow = "1" if limits.allow_non_finite else "0"
    argv = [sys.executable, "-m", "model_delivery_edge.probe.child"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_SECRETS)}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *argv,
            str(archive),
            str(folder),
            str(limits.runs),
            allow,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environ,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(limits.seconds):
            code = await _watched(process, name, limits.most_bytes())
    except TimeoutError:
        raise ProbeError(
            f"{name} was not probed within {limits.seconds:g} s: it hangs or is too slow for this "
            "device; deploy another, or raise configuration.probe.seconds"
        ) from None
    finally:
        if process.returncode is None:
            await finish_in_thread(lambda: end_tree(process.pid))
            with contextlib.suppress(ProcessLookupError):
                await process.wait()
    tail = (folder / "log").read_bytes()[-2000:].decode(errors="replace").split()
    return code, " ".join(tail)[-300:]


async def _watched(process: asyncio.subprocess.Process, name: str, most_bytes: int) -> int:
    ended = asyncio.ensure_future(process.wait())
    while True:
        done, _ = await asyncio.wait([ended], timeout=_LOOK_SECONDS)
        if done:
            return ended.result()
        held = memory_of(tree_of(process.pid))
        if held > most_bytes:
            ended.cancel()
            raise ProbeError(
                f"{name} took {held // MIB} MiB of memory while it was probed and may have "
                f"{most_bytes // MIB}; deploy a smaller one, or raise "
                "configuration.probe.memoryBytes"
            )


def _judge(result: Mapping[str, Any], name: str, limits: Limits) -> dict[str, Any]:
    if error := result.get("error"):
        raise (ProbeError if result.get("refused") else DeploymentError)(str(error))
    if limits.latency_ms is not None and result["median_ms"] > limits.latency_ms:
        raise ProbeError(
            f"{name} takes {result['median_ms']:.3g} ms a run on this device and may take "
            f"{limits.latency_ms:g}; deploy a faster one, or raise configuration.probe.latencyMs"
        )
    return dict(result)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
