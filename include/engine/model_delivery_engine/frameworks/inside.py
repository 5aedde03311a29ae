"""The process inside the sandbox: `python -m model_delivery_engine.frameworks.inside`.

It reads its task as JSON from the first argument, writes ``model.onnx``, ``reference/`` (what the
framework's own model answers to probes and to the user's samples) and ``outcome.json``.
"""

import importlib
import json
import logging
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import EngineError, one_line
from model_delivery_engine.frameworks.conversion import MODEL, OUTCOME, REFERENCE, Conversion
from model_delivery_engine.frameworks.reference import Reference


def main() -> None:
    """Convert what the first argument says."""
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING)
    task: dict[str, Any] = json.loads(sys.argv[1])
    into = Path(task["into"])
    try:
        outcome = _convert(task, into)
    except EngineError as error:
        outcome = {
            "ok": False,
            "error": str(error),
            "reason": error.reason.value,
            "operator": error.operator,
        }
    except MemoryError:
        outcome = {"ok": False, "memory": True}
    except Exception as error:
        # What the framework raised is the reason of the failure; the whole of it is in the log.
        traceback.print_exc()
        outcome = {"ok": False, "error": f"{type(error).__name__}: {one_line(error)}"}
    _write(into, outcome)


def _write(into: Path, outcome: dict[str, Any]) -> None:
    """Write the outcome whole or not at all: the process may end at any time."""
    fresh = into / f"{OUTCOME}.new"
    fresh.write_text(json.dumps(outcome))
    fresh.replace(into / OUTCOME)


def _convert(task: dict[str, Any], into: Path) -> dict[str, Any]:
    module = importlib.import_module(f"model_delivery_engine.frameworks.{task['module']}")
    shapes = {name: tuple(shape) for name, shape in task["shapes"].items()}
    conversion = Conversion(
        source=Path(task["source"]),
        into=into / MODEL,
        shapes=shapes,
        dtype=task["dtype"],
        allow_code=task["allow_code"],
        options=task["options"],
        dtypes=task["dtypes"],
        values=task["values"],
    )
    converted = module.convert(conversion)
    (into / REFERENCE).mkdir()
    seconds = task["probe_seconds"]
    missing = getattr(module, "MISSING", False)
    folder = into / REFERENCE
    reference = Reference(
        converted, into / MODEL, folder, shapes, seconds, missing, conversion.values
    )
    reference.answer_golden()
    for name, path in task["samples"].items():
        reference.answer_samples(name, Path(path))
    # What follows may break a framework, which no more than leaves those probes out: the model is
    # converted, and answers what it is meant for.
    waiting = reference.probes()
    for place, name in enumerate(waiting):
        _write(into, {"ok": True, **reference.outcome(), "pending": waiting[place:]})
        signal.setitimer(signal.ITIMER_REAL, reference.seconds_left())
        reference.answer_probe(name)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return {"ok": True, **reference.outcome()}


if __name__ == "__main__":
    main()
