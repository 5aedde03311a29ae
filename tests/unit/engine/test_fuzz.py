"""Mutated archives and models: an error of the engine's own, or a model, and nothing else.

`make fuzz` runs 10,000.
"""

import random
from pathlib import Path

import pytest
from model_delivery_engine.settings import CompilerSettings

from tests.fuzz.compile_inputs import compile_input, run
from tests.fuzz.mutations import model, packed

INPUTS = 640


@pytest.mark.parametrize("seed", range(6))
def test_what_is_mutated_compiles_as_it_is(tmp_path: Path, seed: int) -> None:
    data = packed(model(random.Random(seed)).SerializeToString())
    assert compile_input(data, tmp_path, CompilerSettings(environments=tmp_path)) == "compiled"


def test_nothing_crashes_hangs_or_surprises() -> None:
    found = run(INPUTS, seed=7)
    assert (found["crashed"], found["hung"], found["unexpected"]) == ([], [], [])
    assert sum(found["came"].values()) == INPUTS
    assert {"compiled", "ARCHIVE_INVALID", "MODEL_UNREADABLE"} <= set(found["came"])
