"""What the framework's own model answers, inside the sandbox; read by `results` outside."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model_delivery_engine import probes
from model_delivery_engine.errors import ConversionError, OptionsError, Reason, one_line
from model_delivery_engine.fixed_inputs import FixedInputs, fixed_arrays
from model_delivery_engine.frameworks import splits
from model_delivery_engine.frameworks.conversion import Converted
from model_delivery_engine.graph_inputs import input_specs
from model_delivery_engine.probes import Probe, Run
from model_delivery_engine.quantize.samples import load_samples
from model_delivery_engine.tensors import Array

_LEAST_SECONDS = 1.0


class Reference:
    """Has a framework's model answer, and writes each answer as it comes.

    :param model: the ONNX model, whose inputs and outputs the answers are named after
    :param folder: for the answers, which is there
    :param seconds: for all the probes
    :param missing: the framework takes NaN for a value that is missing
    :param values: of inputs that are fixed (default: none)
    """

    def __init__(
        self,
        converted: Converted,
        model: Path,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        seconds: float,
        missing: bool = False,
        values: FixedInputs | None = None,
    ) -> None:
        import onnx

        self._converted = converted
        self._folder = folder
        self._graph = onnx.load(model, load_external_data=False).graph
        taken = input_specs(self._graph, shapes)
        self._fixed = fixed_arrays(values or {}, taken)
        self._taken = [spec.name for spec in taken]
        self._specs = [spec for spec in taken if spec.name not in self._fixed]
        self._outputs = [node.name for node in self._graph.output]
        self._answered: list[str] = []
        self._left_out: dict[str, str] = {}
        self._missing = missing
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def answer_golden(self) -> None:
        """Answer the golden inputs.

        :raises ConversionError: the model answers no output
        """
        drawn = probes.draw(probes.UNIT, self._specs, categories=self._converted.categories)
        inputs = drawn[0]
        expected = self._answer(inputs)
        if not expected:
            raise ConversionError(
                "the framework itself has no answer for any output of its ONNX form "
                f"({', '.join(self._outputs)}), so that nothing could be proved of it"
            )
        noise = probes.noise_of(inputs, expected, self._answer)
        self._keep(Probe(probes.UNIT, (Run(inputs, expected, noise),)))

    def answer_samples(self, name: str, path: Path) -> None:
        """Answer the user's samples, as many as are compared, and all that are labelled.

        :raises OptionsError: samples that the model itself does not take
        """
        samples = load_samples(
            path, self._specs, exact=self._converted.double, missing=self._missing
        )
        size = next((s.shape[0] for s in self._specs if s.shape and s.shape[0] != -1), None)
        runs: list[Run] = []
        compared = probes.Compared()
        for batch in samples.batches(size):
            enough = compared.enough
            if enough and name != probes.LABELLED:
                break
            try:
                expected = self._answer(batch)
            except Exception as error:
                raise OptionsError(
                    f"{path.name}: the model itself fails on these samples: "
                    f"{type(error).__name__}: {one_line(error, 200)}; remove those that it cannot "
                    "take",
                    reason=Reason.SAMPLES_INVALID,
                ) from error
            noise = {} if enough else probes.noise_of(batch, expected, self._answer)
            compared.add(batch, expected)
            runs.append(Run(batch, expected, noise))
        # The host has the inputs itself, in the model's own data types.
        self._keep(Probe(name, tuple(Run({}, run.expected, run.noise) for run in runs)))

    def probes(self) -> list[str]:
        """Return the names of what is left to answer; the time for it starts."""
        self._until = time.monotonic() + self._seconds
        names = [name for name in probes.DISTRIBUTIONS if name != probes.UNIT]
        if self._missing:
            names.append(probes.MISSING)
        if splits.own_values(self._graph):
            names.append(splits.SPLITS)
        return names

    def answer_probe(self, name: str) -> None:
        """Answer one of `probes`, or note why the model does not."""
        found: Probe | str
        if name == splits.SPLITS:
            drawn = splits.draw(self._graph, self._specs, self._converted.exact_splits)
            answered = probes.answer_runs(drawn, self._answer)
            # A split point is compared with the input as it came: there is nothing to round.
            found = answered if isinstance(answered, str) else Probe(name, _without_noise(answered))
        else:
            found = probes.answer_probe(
                name, self._specs, self._answer, self._until, self._converted.categories
            )
        if isinstance(found, str):
            self._left_out[name] = found
        else:
            self._keep(found)

    def seconds_left(self) -> float:
        """Return how long the next probe may take."""
        return max(_LEAST_SECONDS, self._until - time.monotonic())

    def outcome(self) -> dict[str, Any]:
        """Return what was answered and what was not."""
        return {
            "answered": self._answered,
            "left_out": self._left_out,
            "quantised": self._converted.quantised,
            "knows_missing": self._converted.knows_missing,
            "categories": {str(n): list(v) for n, v in self._converted.categories.items()},
        }

    def _answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = {**inputs, **self._fixed}
        arrays = [given[name] for name in self._taken]
        if self._converted.double:
            arrays = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
        answers = self._converted.run(arrays)
        if len(answers) != len(self._outputs):
            raise ConversionError(
                f"the ONNX form has {len(self._outputs)} outputs, the model returns {len(answers)}"
            )
        named = zip(self._outputs, answers, strict=True)
        return {name: _plain(answer) for name, answer in named if answer is not None}

    def _keep(self, probe: Probe) -> None:
        arrays = {}
        for number, run in enumerate(probe.runs):
            for kind in ("inputs", "expected", "noise"):
                for name, array in getattr(run, kind).items():
                    arrays[f"{number}:{kind}:{name}"] = array
        np.savez(self._folder / f"{len(self._answered)}.npz", **arrays)
        self._answered.append(probe.distribution)


def _without_noise(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    return tuple(Run(run.inputs, run.expected) for run in runs)


def _plain(answer: Any) -> Array:
    """Return an array that can be kept without a pickle: strings have a length there."""
    array = np.asarray(answer)
    return array.astype(str) if array.dtype.kind == "O" else array
