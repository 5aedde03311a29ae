"""8-bit integers through ONNX Runtime's quantiser: dynamic, and static with calibration.

Dynamic quantises weights ahead and activations as they come: for models of matrix products. Static
quantises activations by the ranges seen on calibration samples: for convolutions.
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
from onnxruntime import quantization

from model_delivery_engine import weights
from model_delivery_engine.errors import CompilationError, InferenceError, Reason, one_line
from model_delivery_engine.graph import name_nodes
from model_delivery_engine.heap import give_back
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.quantize.bias import correct_biases, distance, measure_shifts
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import RUNTIME_ERRORS, open_session
from model_delivery_engine.tensors import Array

# Weights of these carry the arithmetic; the rest of the graph follows them.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Those that have integer kernels with a floating-point output. A convolution has none: where its
# output stays in floats, it is computed in floats altogether.
PRODUCTS = ("Gemm", "MatMul")
# Convolutions are left out: quantised as they come they run several times slower than in fp32.
DYNAMIC = ("Gather", "Gemm", "LSTM", "MatMul")
_PER_CHANNEL_OPSET = 13
MOST_UNFIT = 8
# How ONNX Runtime names a node that converts a tensor from or to integers.
_AT_FAULT = re.compile(r"Name:'(.+?)_(?:Dequantize|Quantize)Linear'")
_RAISED_OPSET = 17
_quantization: Any = quantization
log = logging.getLogger(__name__)
_FAULTS: tuple[type[Exception], ...] = (InferenceError, *RUNTIME_ERRORS)
_LEFT: tuple[type[Exception], ...] = (CompilationError, *_FAULTS)


@dataclass(frozen=True)
class Scheme:
    """How integers are laid out for a processor.

    :param signed: signed activations: what ARM's kernels take; x86's take unsigned
    :param reduced: weights in 7 bits, because x86 without VNNI adds pairs of products in 16 bits
        and saturates
    """

    signed: bool
    reduced: bool


def scheme_for(arch: str, vnni: bool) -> Scheme:
    """Return the scheme for a target's architecture.

    :param vnni: whether every machine that will run the model has VNNI instructions
    """
    narrow = arch in ("X86_64", "X86")
    return Scheme(signed=not narrow, reduced=narrow and not vnni)


class _Reader:
    """Calibration samples as ONNX Runtime's calibrator asks for them."""

    def __init__(self, samples: Samples, batch_size: int | None) -> None:
        self._batches: Iterator[dict[str, Array]] = samples.batches(batch_size)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def raise_operator_set(source: Path, into: Path) -> None:
    """Write the model in an operator set that can say what quantisation per channel means.

    A model that ONNX's converter cannot raise is written as it is.

    :param into: in the folder of ``source``, whose weights it shares
    """
    model = weights.skeleton(source)
    # A model of trees has operators of ai.onnx.ml alone.
    standard = (each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if next(standard, _PER_CHANNEL_OPSET) < _PER_CHANNEL_OPSET:
        with contextlib.suppress(RuntimeError, ValueError):
            model = onnx.version_converter.convert_version(model, _RAISED_OPSET)
            name_nodes(model)
    onnx.save(model, into)


def quantize_dynamic(source: Path, into: Path, scheme: Scheme) -> None:
    """Write the model with 8-bit weights, activations quantised while it runs."""
    with quantiser_call():
        _quantization.quantize_dynamic(
            source,
            into,
            op_types_to_quantize=list(DYNAMIC),
            weight_type=_quantization.QuantType.QInt8,
            per_channel=False,
            reduce_range=scheme.reduced,
        )


class StaticQuantizer:
    """Static quantisation of one model, calibrated once for any choice of operators.

    :param source: the model, constants folded, every node named
    :param folder: for the calibration's ranges
    :param operators: types of operators to quantise (default: all that can be)
    :param float_outputs: types whose output becomes integers only if an operator that takes it
        wants them, so that reverting that one takes the rounding away (default: none)
    :param leave: names of nodes that stay in floating point in every choice (default: none)
    """

    def __init__(
        self,
        source: Path,
        samples: Samples,
        batch_size: int | None,
        scheme: Scheme,
        folder: Path,
        operators: Sequence[str] | None = None,
        float_outputs: Sequence[str] = (),
        leave: Sequence[str] = (),
    ) -> None:
        self.source = source
        self._samples = samples
        self._batch_size = batch_size
        self._scheme = scheme
        self._ranges = folder / "ranges.json"
        self._operators = list(operators) if operators else None
        self._float_outputs = tuple(float_outputs)
        # Weights by channel or not, bias adjusted or not. ONNX Runtime 1.31 stumbles over a bias of
        # several values on weights of one scale, and over a weight by channel behind a Reshape.
        self._ways = [(True, True), (True, False), (False, True), (False, False)]
        self._proved = False
        self._shifts: dict[str, Array] = {}
        self._unfit = list(leave)

    def quantize(self, into: Path, keep: Sequence[str] = ()) -> None:
        """Write the quantised model.

        :param keep: names of nodes that stay in floating point
        :raises CompilationError: the quantiser cannot, or what it writes does not run
        """
        faults = []
        while self._ways:
            try:
                self._quantize(into, [*keep, *self._unfit], *self._ways[0])
                if not self._proved:
                    run_once(into, self._samples, self._batch_size)
                    self._proved = True
                    self._correct(into, [*keep, *self._unfit])
            except CompilationError as error:
                faults.append(error)
                if self._proved:
                    raise
                # One operator that the runtime cannot do in integers leaves the others theirs.
                unfit = self._around(error.operator)
                if unfit and len(faults) <= MOST_UNFIT:
                    self._unfit += unfit
                else:
                    del self._ways[0]
            else:
                return
        raise faults[-1]

    def _around(self, tensor: str | None) -> list[str]:
        """Return the nodes that make or take a tensor and are quantised still."""
        graph = weights.skeleton(self.source).graph
        touching = [n for n in graph.node if tensor and tensor in (*n.input, *n.output)]
        return [node.name for node in touching if node.name not in self._unfit]

    def _quantize(self, into: Path, keep: Sequence[str], per_channel: bool, adjust: bool) -> None:
        signed = self._scheme.signed
        types = _quantization.QuantType
        # The quantiser appends to a file of weights that an earlier way left.
        into.with_name(into.name + weights.SUFFIX).unlink(missing_ok=True)
        source = self._corrected(keep)
        with quantiser_call():
            _quantization.quantize_static(
                str(source),
                str(into),
                _Reader(self._samples, self._batch_size),
                quant_format=_quantization.QuantFormat.QDQ,
                op_types_to_quantize=self._operators,
                per_channel=per_channel,
                reduce_range=self._scheme.reduced,
                activation_type=types.QInt8 if signed else types.QUInt8,
                weight_type=types.QInt8,
                nodes_to_exclude=list(keep),
                calibration_cache_path=self._ranges,
                use_external_data_format=True,
                extra_options={
                    "ActivationSymmetric": signed,
                    "QDQDisableWeightAdjustForInt32Bias": not adjust,
                    "OpTypesToExcludeOutputQuantization": self._float_outputs,
                },
            )

    def _correct(self, into: Path, keep: Sequence[str]) -> None:
        """Quantise once more with corrected biases, where that brings the answers nearer.

        Of a page that is white but for some words the mean input is white, and what is right for
        that on average may be wrong where the words are.
        """
        samples, size = self._samples, self._batch_size
        try:
            shifts = measure_shifts(self.source, into, samples, size)
            if not shifts:
                return
            before = distance(self.source, into, samples, size)
            self._shifts = shifts
            self._quantize(into, keep, *self._ways[0])
            after = distance(self.source, into, samples, size)
            log.info("biases corrected: %.4g of the variance is off, %.4g before", after, before)
            if after < before:
                return
        except _LEFT as error:  # what was written before it is sound
            log.info("biases are left as they are: %s", one_line(error, 200))
        if self._shifts:
            self._shifts = {}
            self._quantize(into, keep, *self._ways[0])

    def _corrected(self, keep: Sequence[str]) -> Path:
        """Return the model with the biases of what is quantised corrected, once they are known."""
        shifts = {name: shift for name, shift in self._shifts.items() if name not in keep}
        if not shifts:
            return self.source
        path = self.source.with_name(f"{self.source.stem}.corrected.onnx")
        correct_biases(self.source, path, shifts)
        return path


def run_once(model: Path, samples: Samples, batch_size: int | None) -> None:
    """Run a quantised model as it was written.

    :raises CompilationError: ONNX Runtime cannot; its ``operator`` is the tensor at fault, if known
    """
    try:
        session = open_session(model, unoptimised_options())
        session.run(None, next(samples.batches(batch_size)))
    except _FAULTS as error:
        at_fault = _AT_FAULT.search(str(error))
        raise CompilationError(
            f"the quantised model does not run: {one_line(error, 200)}",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=at_fault[1] if at_fault else None,
        ) from error


def weighted_nodes(model: Path) -> list[str]:
    """Return the names of the nodes that quantisation is about, in the graph's order."""
    graph = weights.skeleton(model).graph
    return [node.name for node in graph.node if node.op_type in WEIGHTED]


def normalizations(model: Path) -> list[str]:
    """Return the names of the batch normalisations, which have no kernel for integers."""
    graph = weights.skeleton(model).graph
    return [node.name for node in graph.node if node.op_type == "BatchNormalization"]


def grouped_convolutions(model: Path) -> list[str]:
    """Return the names of the convolutions whose channels are in groups (depthwise ones too)."""
    graph = weights.skeleton(model).graph
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return [
        node.name
        for node in convolutions
        if any(each.name == "group" and each.i > 1 for each in node.attribute)
    ]


@contextlib.contextmanager
def quantiser_call() -> Iterator[None]:
    """Call ONNX Runtime's quantiser: its advice stays out of the log, its errors become ours.

    It meets graphs that it cannot handle in ways of its own, whatever type of error comes to it.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:
        raise CompilationError(
            f"ONNX Runtime's quantiser: {type(error).__name__}: {one_line(error, 200)}",
            reason=Reason.OPERATOR_UNSUPPORTED,
        ) from error
    finally:
        root.setLevel(level)
        give_back()  # it works on copies of the weights
