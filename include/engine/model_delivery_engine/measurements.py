"""What was measured of a model: each figure with how it was come by.

``kind`` is ``measured`` (on a machine that is what the target names) or ``proxy`` (on another one,
even where it has the same architecture). `latency.kind_for` decides it for a target.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MEASURED = "measured"
PROXY = "proxy"


@dataclass(frozen=True)
class Parity:
    """Compiled against source model.

    :param max_abs: largest absolute difference over the floating-point outputs
    :param max_rel: largest difference relative to the source's value
    :param atol: absolute tolerance; of an output's largest magnitude where ``proved`` is not empty
    :param argmax_agreement: share of samples (0 to 1) with the largest value in the same place, in
        every output with classes; None for a model without such an output
    :param samples: samples compared
    :param proved: distributions of inputs that were compared, of `probes` and the user's samples
    :param left_out: distributions that were not, each with the reason
    """

    max_abs: float
    max_rel: float
    argmax_agreement: float | None
    atol: float
    rtol: float
    samples: int
    kind: str = MEASURED
    proved: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latency:
    """Processor time of one run of source and compiled model: medians over interleaved rounds.

    :param source_ms: the source model on ONNX Runtime with default settings, milliseconds
    :param compiled_ms: the compiled model on the same machine and threads, milliseconds
    :param batch_size: samples in one run
    :param machine: processor, cores, and what ran it
    :param kind: measured or proxy
    """

    source_ms: float
    compiled_ms: float
    rounds: int
    batch_size: int
    threads: int
    machine: str
    kind: str


@dataclass(frozen=True)
class Candidate:
    """One way to compile the model, and what came of it.

    :param name: ``source``, ``fp32``, ``fp16``, ``int8-dynamic``, ``int8-static`` …
    :param precision: fp32, fp16 or int8
    :param status: ``chosen``; ``kept`` (no other is at once smaller, faster and as accurate);
        ``dominated`` (some other is); ``rejected`` (it may not be used)
    :param reason: why it was rejected or is dominated; of one that may be delivered what its
        figures leave open, None for nothing
    :param size_bytes: of the model file
    :param latency_ms: median time of one run, one thread
    :param speedup: the source's time on plain ONNX Runtime by this one's, measured in turns
    :param throughput: what it answers on every core while the source answers one, measured in turns
    :param snr_db: ratio of the fp32 answers' variance to the difference from them, decibels, of
        the output and channel where it is least; of an output that is no floats, all answers to
        the unequal ones; None if equal. Of fp16 with each result rounded to half, if that is less
    :param metric: the user's metric, a mean over the samples; None where no samples were given
    :param drop: what the metric lost against the source, with its 95 % interval
    :param samples: how many samples metric and drop were taken on
    :param reverted: operators kept in floating point to hold the metric, worst first
    :param kind: measured or proxy: what latency, speedup and throughput are for the target; None
        where it was not timed
    :param part: ``held out``: neither calibrated, searched nor ranked with; ``all`` where the
        samples were too few to part
    """

    name: str
    precision: str
    status: str
    reason: str | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    snr_db: float | None = None
    metric: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    samples: int | None = None
    reverted: tuple[str, ...] = ()
    throughput: float | None = None
    part: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Operator:
    """An operator's own time in one run, milliseconds, and its share of all operators' (0 to 1).

    One of a loop's or a branch's body is named after what holds it, ``holder/operator``, and counts
    as often as it ran; the holder's own time is without its body's.
    """

    name: str
    type: str
    ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """How the model behaves in a process of its own.

    :param cold_load_ms: the first load in a fresh process, its file dropped from the page cache
    :param warm_load_ms: loading it again in the same process
    :param first_inference_ms: the first run, with what ONNX Runtime allocates in it
    :param inference_ms: every run after it, in order
    :param peak_memory_bytes: resident memory at its highest, less what the process had before it
        loaded the model
    :param operators: the slowest operators, slowest first, as ONNX Runtime's profiler has them
    :param other_operators_ms: time of all that are not listed
    :param versions: what ran it
    :param kinds: measured or proxy, for each of these figures
    """

    cold_load_ms: float
    warm_load_ms: float
    first_inference_ms: float
    inference_ms: tuple[float, ...]
    peak_memory_bytes: int
    operators: tuple[Operator, ...]
    other_operators_ms: float
    threads: int
    machine: str
    versions: Mapping[str, str]
    kinds: Mapping[str, str]
