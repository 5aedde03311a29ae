"""Mutated archives and models: an error of the engine's own, or a model, and nothing else.

`make fuzz` runs 10,000.
"""

import contextlib
import random
from pathlib import Path

import onnx
import pytest
from model_delivery_engine.settings import CompilerSettings

from tests.fuzz import graphs
from tests.fuzz.compile_inputs import compile_input, run
from tests.fuzz.mutations import model, packed

INPUTS = 640


@pytest.mark.parametrize("seed", range(6))
def test_what_is_mutated_compiles_as_it_is(tmp_path: Path, seed: int) -> None:
    data = packed(model(random.Random(seed)).SerializeToString())
    assert compile_input(data, tmp_path, CompilerSettings(environments=tmp_path))[0] == "compiled"


def test_graphs_are_grown_from_their_seed_alone() -> None:
    """The checker takes most of those that were changed, too."""
    for make, least in ((graphs.grown, 36), (graphs.changed, 20)):
        one, other = ([make(random.Random(seed)) for seed in range(40)] for _ in range(2))
        assert one == other
        taken = 0
        for made in one:
            with contextlib.suppress(Exception):
                onnx.checker.check_model(made, full_check=True)
                taken += 1
        assert taken >= least


def test_nothing_crashes_hangs_or_surprises() -> None:
    found = run(INPUTS, seed=7)
    assert (found["crashed"], found["hung"], found["unexpected"]) == ([], [], [])
    assert sum(found["came"].values()) == INPUTS
    assert {"compiled", "ARCHIVE_INVALID", "MODEL_UNREADABLE"} <= set(found["came"])
    # Half of the inputs are graphs that the checker knows nothing against until they are changed;
    # some have a dimension that only DataInputConfig could say.
    assert found["passed"]["run"] >= INPUTS // 5
    assert found["passed"]["rewritten"] >= INPUTS // 8
