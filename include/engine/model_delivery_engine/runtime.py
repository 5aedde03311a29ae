"""A bundle's model on ONNX Runtime, and the check that it answers as when it was compiled."""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import onnxruntime

from model_delivery_engine.bundle import Bundle
from model_delivery_engine.difference import compare_outputs
from model_delivery_engine.errors import (
    InferenceError,
    MemoryShortError,
    ParityError,
    TimeShortError,
    one_line,
)
from model_delivery_engine.manifest import ONNX_RUNTIME
from model_delivery_engine.parity import SINGLE, Tolerance, absolute_for
from model_delivery_engine.tensors import Array, TensorSpec, largest, spec_from_runtime

_ERRORS_ONLY = 3  # severity: ONNX Runtime's own log, which goes to standard error

# ONNX Runtime has no type annotations, and its errors no base class of their own: they are listed
# from its module.
_ort: Any = onnxruntime
_NATIVE_ERRORS = (
    error
    for error in vars(_ort.capi.onnxruntime_pybind11_state).values()
    if isinstance(error, type) and issubclass(error, Exception)
)
RUNTIME_ERRORS: tuple[type[Exception], ...] = (*_NATIVE_ERRORS, RuntimeError, ValueError)


def session_options(threads: int | None = None) -> Any:
    """Return ONNX Runtime's default options with its log kept to errors.

    :param threads: threads of one run (default: ONNX Runtime's own choice, the physical cores)
    """
    options = _ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(model: Path | bytes, options: Any) -> Any:
    """Open an ONNX model on the CPU.

    :param model: the file, or its bytes
    :param options: from `session_options`
    :returns: an ``onnxruntime.InferenceSession``
    :raises InferenceError: a model that this ONNX Runtime cannot load; MemoryShortError where it
        has too little memory for it
    """
    source, name = (model, "model") if isinstance(model, bytes) else (str(model), model.name)
    try:
        return _ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        # Its message has the path of a temporary folder, which tells nobody anything.
        text = one_line(str(error) if source is model else str(error).replace(str(source), name))
        refuse_memory(text, name)
        raise InferenceError(
            f"{name}: ONNX Runtime {_ort.__version__} cannot load it: {text}"
        ) from error


class Model:
    """A model that is loaded and can be run, also by several threads at a time.

    :param session: an open session on the model
    :param name: how messages call the model
    :param seconds: after which a run is stopped, between two operators (default: never)
    """

    def __init__(self, session: Any, name: str, seconds: float | None = None) -> None:
        self.name = name
        self._session = session
        self._seconds = seconds
        self.inputs = tuple(_specs(session.get_inputs()))
        self.outputs = tuple(_specs(session.get_outputs()))
        self._input_specs = {spec.name: spec for spec in self.inputs}
        self._output_names = [spec.name for spec in self.outputs]

    @classmethod
    def load(cls, bundle: Bundle, threads: int | None = None) -> Self:
        """Load the model of an opened bundle.

        :param threads: threads of one run (default: ONNX Runtime's own choice)
        :raises InferenceError: the model cannot be loaded here
        """
        if bundle.manifest.runtime != ONNX_RUNTIME:
            raise InferenceError(
                f"model {bundle.manifest.name!r} is for the runtime {bundle.manifest.runtime!r}, "
                "which ONNX Runtime cannot open; run it where that runtime is"
            )
        return cls(open_session(bundle.model_path, session_options(threads)), bundle.manifest.name)

    @property
    def batch_size(self) -> int | None:
        """The number of samples that each run must have, or None where any will do."""
        return next((s.shape[0] for s in self.inputs if s.shape and s.shape[0] != -1), None)

    @property
    def settings(self) -> frozenset[str]:
        """Names of the constants that a run may replace: ONNX's overridable initialisers."""
        return frozenset(each.name for each in self._session.get_overridable_initializers())

    @property
    def metadata(self) -> dict[str, str]:
        """The texts that the model carries beside its graph."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(
        self,
        inputs: Mapping[str, Array],
        settings: Mapping[str, Array] | None = None,
        *,
        seconds: float | None = None,
    ) -> dict[str, Array]:
        """Run the model once.

        :param inputs: an array for each input, of its data type and shape
        :param settings: replacements of constants, by their names (default: none)
        :param seconds: after which this run is stopped (default: the model's own)
        :returns: an array for each output
        :raises InferenceError: a missing or unknown input, another type or shape, a failed run;
            MemoryShortError where a run has too little memory, TimeShortError where it was stopped
        """
        seconds = self._seconds if seconds is None else seconds
        if wrong := sorted(self._input_specs.keys() ^ inputs.keys()):
            names = ", ".join(self._input_specs)
            raise InferenceError(
                f"model {self.name!r}: input {wrong[0]!r} is missing or unknown; it takes {names}"
            )
        for name, array in inputs.items():
            self._input_specs[name].check(array)
        given = {**inputs, **(settings or {})}
        try:
            if seconds is None:
                results = self._session.run(self._output_names, given)
            else:
                results = self._run_within(seconds, given)
        except RUNTIME_ERRORS as error:
            refuse_memory(str(error), self.name)
            raise InferenceError(
                f"model {self.name!r} failed on its inputs: {one_line(error)}"
            ) from error
        return dict(zip(self._output_names, results, strict=True))

    def _run_within(self, seconds: float, given: dict[str, Array]) -> list[Array]:
        options = _ort.RunOptions()
        timer = threading.Timer(seconds, lambda: setattr(options, "terminate", True))
        timer.start()
        try:
            results: list[Array] = self._session.run(self._output_names, given, options)
        except RUNTIME_ERRORS as error:
            if not options.terminate:
                raise
            raise TimeShortError(
                f"model {self.name!r} did not answer within {seconds:g} s; it may loop for ever: "
                "bound its loops, or give smaller dimensions"
            ) from error
        finally:
            timer.cancel()
        return results


# ONNX Runtime has no error of its own for it, only the C++ library's and its arena's words.
_NODE = re.compile(r"running (\w+) node\. Name:'([^']*)'")
_SIZE = re.compile(r"buffer of size (\d+)")
_NO_MEMORY = ("bad_alloc", "failed to allocate memory", "available memory of")


def refuse_memory(text: str, name: str) -> None:
    """Raise MemoryShortError where a message of ONNX Runtime's says that memory was short."""
    if not any(words in text.lower() for words in _NO_MEMORY):
        return
    node, size = _NODE.search(text), _SIZE.search(text)
    found = ""
    if node:
        found += f": operator {node[1]} {node[2]!r}"
    if size:
        found += f" asks for {int(size[1]) >> 20} MiB at once"
    raise MemoryShortError(
        f"model {name!r} needs more memory than there is for it{found}; give smaller dimensions, "
        "or the process more memory",
        operator=node[1] if node else None,
    )


def _specs(nodes: list[Any]) -> list[TensorSpec]:
    return [spec_from_runtime(node.name, node.type, node.shape) for node in nodes]


def check_golden(model: Model, bundle: Bundle) -> None:
    """Run the golden inputs and hold the outputs to the golden ones.

    :raises ParityError: an output is further off than the manifest's tolerance; says the worst
    :raises InferenceError: the model failed on the golden inputs
    """
    golden, expected = bundle.manifest.golden, bundle.golden_outputs
    outputs = model.run(bundle.golden_inputs)
    # A source may compute in lower precision itself: how its bundle is quantised does not say it.
    exact = Tolerance(golden.atol, golden.rtol) == SINGLE
    whole = max((largest(array) for array in expected.values()), default=0.0)
    failed = []
    for name, array in expected.items():
        size = largest(array)
        # Lower precision has a share of the largest output; a smaller one has that share of itself.
        share = 0.0 if exact or not whole else golden.atol * size / whole
        atol = min(golden.atol, max(absolute_for(size), share))
        found = compare_outputs(outputs, {name: array}, atol=atol, rtol=golden.rtol)
        failed += [each for each in found if not each.within]
    if failed:
        worst = max(failed, key=lambda each: each.max_abs)
        raise ParityError(
            f"model {model.name!r} does not reproduce its golden outputs: {worst.detail}; "
            "keep the model that runs, and compile this one for this device's architecture"
        )
