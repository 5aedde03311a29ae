"""Mutated archives and models for a compilation's stages: `python -m tests.fuzz.compile_inputs`.

Each input goes through what a job does with it, stage by stage (`STAGES`). Only an EngineError may
come of it. A process of its own works on many inputs and says which one it is at, so that a native
crash or a hang is known by its number, and the next process goes on behind it.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_delivery_engine.archive import extract_archive
from model_delivery_engine.compile.contest import load_model
from model_delivery_engine.compile.evidence import answer_itself
from model_delivery_engine.errors import EngineError, MemoryShortError
from model_delivery_engine.frameworks import to_onnx
from model_delivery_engine.golden import draw_inputs
from model_delivery_engine.graph import complete_types, prepare_graph
from model_delivery_engine.optimise import optimise, unoptimised_options
from model_delivery_engine.quantize.integers import quantize_dynamic, scheme_for
from model_delivery_engine.ranking import ranking_of
from model_delivery_engine.rewrite import rewrite
from model_delivery_engine.runtime import session_options
from model_delivery_engine.settings import CompilerSettings

from tests.fuzz.mutations import MAKERS

MEMORY = 3 * 2**30
EXPANDED = 64 * 2**20
HANG_SECONDS = 30.0
PROBE_SECONDS = 5.0
PROJECT = Path(__file__).resolve().parents[2]


def work(seed: int, start: int, count: int) -> None:
    """Work on the inputs from `start` on, a line of JSON before each and one after it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    settings = CompilerSettings(environments=Path("/nowhere"))
    for number in range(start, start + count):
        print(json.dumps({"at": number}), flush=True)
        generator = random.Random(f"{seed}:{number}")
        maker = MAKERS[number % len(MAKERS)]
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            came = compile_input(maker(generator), Path(folder), settings)
        told = {"done": number, "maker": maker.__name__, "came": came[0], "reached": came[1]}
        print(json.dumps(told), flush=True)


def compile_input(data: bytes, folder: Path, settings: CompilerSettings) -> tuple[str, str]:
    """Return what came of an input, and the last stage that it passed.

    :returns: `compiled`, an engine's reason, or an error's own name; one of `STAGES`, or `nothing`
    """
    (folder / "model.tar.gz").write_bytes(data)
    reached = "nothing"
    try:
        for stage in _stages(folder, settings):
            reached = stage
    except EngineError as error:
        return error.reason.value, reached
    except MemoryError:  # as the compiler's own bound tells it
        return MemoryShortError("").reason.value, reached
    except Exception as error:
        return f"unexpected {type(error).__name__}: {str(error)[:200]}", reached
    return "compiled", reached


# By what is done in them: unpacked; read, checked, its shapes inferred; opened and run as it was
# written; probed; folded and fused, and run so; rewritten by the compiler's own passes; quantised.
STAGES = ("unpacked", "checked", "run", "probed", "optimised", "rewritten", "quantised")


def _stages(folder: Path, settings: CompilerSettings) -> Iterator[str]:
    """Work through the stages; yield each that is passed."""
    source, optimised, folded, rewritten, typed = (
        folder / f"{name}.onnx" for name in ("source", "optimised", "folded", "rewritten", "typed")
    )
    extract_archive(folder / "model.tar.gz", folder / "in", max_bytes=EXPANDED)
    yield "unpacked"
    imported = to_onnx("ONNX", folder / "in", {}, folder / "imported", settings)
    prepare_graph(imported.model, {}, source)
    yield "checked"
    reference = load_model(source, unoptimised_options(), PROBE_SECONDS)
    golden = draw_inputs(reference.inputs)
    reference.run(golden)
    yield "run"
    answer_itself(reference, {}, PROBE_SECONDS)
    if ranking := ranking_of(source, PROBE_SECONDS):
        ranking(golden)
    yield "probed"
    optimise(source, optimised)
    load_model(optimised, session_options(1), PROBE_SECONDS).run(golden)
    yield "optimised"
    optimise(source, folded, "fold")
    rewrite(folded, rewritten)
    load_model(rewritten, session_options(1), PROBE_SECONDS).run(golden)
    yield "rewritten"
    complete_types(rewritten, typed)
    quantize_dynamic(typed, folder / "integers.onnx", scheme_for("X86_64", vnni=False))
    yield "quantised"


def run(inputs: int, seed: int) -> dict[str, Any]:
    """Fuzz in processes of their own.

    :returns: counts by what came of the inputs, and of those that passed each stage; the numbers of
        those that crashed a process, hung it, or raised what is no EngineError
    """
    came: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    faults: dict[str, list[Any]] = {"crashed": [], "hung": [], "unexpected": []}
    number = 0
    while number < inputs:
        number = _round(number, inputs - number, seed, came, reached, faults)
    passed = {
        stage: sum(reached[later] for later in STAGES[place:]) for place, stage in enumerate(STAGES)
    }
    counts = {"came": dict(came.most_common()), "passed": passed}
    return {"seed": seed, "inputs": inputs, **counts, **faults}


def _round(
    start: int,
    count: int,
    seed: int,
    came: Counter[str],
    reached: Counter[str],
    faults: dict[str, list[Any]],
) -> int:
    """Let one process work; return where the next has to go on."""
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else __spec__.name,
               "--work", str(seed), str(start), str(count)]  # fmt: skip
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, cwd=PROJECT)
        seen, changed = 0, time.monotonic()
        hung = False
        while process.poll() is None:
            time.sleep(0.2)
            size = out.seek(0, 2)
            if size != seen:
                seen, changed = size, time.monotonic()
            elif time.monotonic() - changed > HANG_SECONDS:
                hung = True
                process.kill()
                process.wait()
        out.seek(0)
        lines = [json.loads(line) for line in out if line.endswith("}\n")]
    at = start
    for line in lines:
        if "done" in line:
            came[line["came"].partition(":")[0]] += 1
            reached[line["reached"]] += 1
            if line["came"].startswith("unexpected"):
                faults["unexpected"].append(line)
            at = line["done"] + 1
    if at < start + count:
        faults["hung" if hung else "crashed"].append({"number": at, "code": process.returncode})
        at += 1
    return at


def main() -> int:
    """Fuzz from the command line; the code is 1 where anything but an EngineError came."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=int, nargs=3)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return 0
    started = time.monotonic()
    found = run(arguments.inputs, arguments.seed)
    print(json.dumps({**found, "seconds": round(time.monotonic() - started, 1)}, indent=1))
    return 1 if found["crashed"] or found["hung"] or found["unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
