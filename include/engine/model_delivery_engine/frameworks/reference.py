"""What the framework's own model answers, inside the sandbox; read by `read_reference` outside."""

import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_delivery_engine import probes
from model_delivery_engine.errors import ConversionError, OptionsError, Reason, one_line
from model_delivery_engine.frameworks import splits
from model_delivery_engine.frameworks.conversion import Converted
from model_delivery_engine.probes import Probe, Run
from model_delivery_engine.quantize.samples import load_samples
from model_delivery_engine.tensors import Array, TensorSpec

COMPARED = 512  # samples with noise, and that conversions are held to; answered are all
_LEAST_SECONDS = 1.0


class Reference:
    """Has a framework's model answer, and writes each answer as it comes.

    :param model: the ONNX model, whose inputs and outputs the answers are named after
    :param folder: for the answers, which is there
    :param seconds: for all the probes
    """

    def __init__(
        self,
        converted: Converted,
        model: Path,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        seconds: float,
    ) -> None:
        import onnx

        self._converted = converted
        self._folder = folder
        self._graph = onnx.load(model, load_external_data=False).graph
        self._specs = _specs(self._graph, shapes)
        self._outputs = [node.name for node in self._graph.output]
        self._answered: list[str] = []
        self._left_out: dict[str, str] = {}
        self._silent: list[str] = []
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def answer_golden(self) -> None:
        """Answer the golden inputs.

        :raises ConversionError: the model does not run on them
        """
        inputs = probes.draw(probes.UNIT, self._specs)[0]
        expected = self._answer(inputs)
        self._silent = [name for name in self._outputs if name not in expected]
        noise = probes.noise_of(inputs, expected, self._answer)
        self._keep(Probe(probes.UNIT, (Run(inputs, expected, noise),)))

    def answer_samples(self, name: str, path: Path) -> None:
        """Answer the user's samples: all of them, the first with their noise.

        :raises OptionsError: samples that the model itself does not take
        """
        samples = load_samples(path, self._specs, exact=self._converted.double)
        size = next((s.shape[0] for s in self._specs if s.shape and s.shape[0] != -1), None)
        runs: list[Run] = []
        seen = 0
        for batch in samples.batches(size):
            try:
                expected = self._answer(batch)
            except Exception as error:
                raise OptionsError(
                    f"{path.name}: the model itself fails on these samples: "
                    f"{type(error).__name__}: {one_line(error, 200)}; remove those that it cannot "
                    "take",
                    reason=Reason.SAMPLES_INVALID,
                ) from error
            noise = probes.noise_of(batch, expected, self._answer) if seen < COMPARED else {}
            seen += len(next(iter(batch.values())))
            runs.append(Run(batch, expected, noise))
        # The host has the inputs itself, in the model's own data types.
        self._keep(Probe(name, tuple(Run({}, run.expected, run.noise) for run in runs)))

    def probes(self) -> list[str]:
        """Return the names of what is left to answer; the time for it starts."""
        self._until = time.monotonic() + self._seconds
        names = [name for name in probes.DISTRIBUTIONS if name != probes.UNIT]
        if self._converted.missing:
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
            found = probes.answer_probe(name, self._specs, self._answer, self._until)
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
            "silent": self._silent,
            "quantised": self._converted.quantised,
            "optional": self._converted.optional,
        }

    def _answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        arrays = [inputs[spec.name] for spec in self._specs]
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


@dataclass(frozen=True)
class Answers:
    """What the framework answered.

    :param probes: by distribution, the user's samples among them
    :param left_out: distributions that it has no answers to, each with the reason
    :param silent: outputs of the ONNX model that the framework itself does not answer
    :param quantised: it computes in 8 bits itself
    :param optional: distributions on which the ONNX form may differ
    """

    probes: tuple[Probe, ...]
    left_out: tuple[str, ...]
    silent: tuple[str, ...]
    quantised: bool
    optional: tuple[str, ...] = ()


def read_reference(folder: Path, outcome: Mapping[str, Any]) -> Answers:
    """Read what the sandboxed process left.

    :param outcome: as `Reference.outcome` gave it
    :raises ConversionError: the process left something else; code of the archive may have run in it
    """
    try:
        found = [
            Probe(str(distribution), _read_runs(folder / f"{number}.npz"))
            for number, distribution in enumerate(outcome["answered"])
        ]
        left_out = [f"{name}: {why}" for name, why in outcome["left_out"].items()]
        silent = tuple(map(str, outcome["silent"]))
        return Answers(
            tuple(found),
            tuple(left_out),
            silent,
            bool(outcome["quantised"]),
            tuple(map(str, outcome["optional"])),
        )
    except (KeyError, ValueError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise ConversionError(
            f"the framework's answers cannot be read ({one_line(error, 200)}); export the model to "
            "ONNX yourself"
        ) from error


def _read_runs(path: Path) -> tuple[Run, ...]:
    runs: dict[int, Run] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            index, kind, name = key.split(":", 2)
            run = runs.setdefault(int(index), Run({}, {}))
            {"inputs": run.inputs, "expected": run.expected, "noise": run.noise}[kind][name] = file[
                key
            ]
    return tuple(runs[number] for number in sorted(runs))


def _specs(graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[TensorSpec]:
    import onnx

    constants = {tensor.name for tensor in graph.initializer}
    specs = []
    for node in graph.input:
        if node.name in constants:
            continue
        tensor = node.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        dtype = _DTYPES[np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name]
        specs.append(TensorSpec(node.name, dtype, shapes.get(node.name, dims)))
    return specs


_DTYPES = {
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
