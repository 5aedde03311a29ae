"""What the `compile` benchmark says of its times: a figure a model and setting, and the goals."""

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from model_delivery_engine.bundle import Bundle

from benchmarks.compilation.models import Case
from benchmarks.record import Measure

ROUNDS = 7
MAX_DROP = 0.01
NEURAL_GOAL, SLOWEST_GOAL, OPENVINO_GOAL = 1.5, 1 / 1.02, 0.9
LATENCY, THROUGHPUT = "latency", "throughput"
SETTINGS = (LATENCY, THROUGHPUT)
STREAMS = " streams"
# Ours, and what each is held beside in OpenVINO: the same precision, and the issue's own goal.
FP32, INT8, CHOSEN = "fp32", "int8", "chosen"
OPENVINO, OPENVINO_DEFAULT, NNCF = "openvino", "openvino default", "nncf int8"


@dataclass(frozen=True)
class Timed:
    """A case with its bundle, and seconds a run by setting, runner and round.

    :param accuracy: of each runner on the samples that no compilation saw
    :param failed: runners that could not be had, with why
    """

    case: Case
    chosen: Bundle
    source_bytes: int
    times: Mapping[str, Mapping[str, list[float]]]
    accuracy: Mapping[str, float]
    held_out: int
    failed: Mapping[str, str]

    def ratio(self, setting: str, runner: str, over: str = "plain") -> float | None:
        """Return how often `runner` runs while `over` runs once, the median of the rounds."""
        times = self.times[setting]
        if runner not in times or over not in times:
            return None
        return statistics.median(b / a for a, b in zip(times[runner], times[over], strict=True))

    def beside(self, setting: str, runner: str, peer: str) -> float | None:
        """Return the ratio to OpenVINO: for throughput each as streams, its own way to it."""
        way = STREAMS if setting == THROUGHPUT else ""
        return self.ratio(setting, runner + way, peer + way)


def measures(timed: list[Timed]) -> list[Measure]:
    return [_measure(each, setting) for setting in SETTINGS for each in timed]


def _measure(timed: Timed, setting: str) -> Measure:
    """Return a case's figure: milliseconds of a sample, or samples a second."""
    times = timed.times[setting]
    latency = setting == LATENCY

    def figures(runner: str) -> list[float]:
        return [s * 1000 if latency else timed.case.batch / s for s in times[runner]]

    ours = figures(CHOSEN)
    ratio = timed.ratio(setting, CHOSEN)
    assert ratio is not None
    threads = 1 if latency else os.cpu_count()
    what = "latency of one sample" if latency else f"throughput, {timed.case.batch} in a run"
    return Measure(
        what=f"{timed.case.name}: {what}, {threads} threads",
        unit="ms" if latency else "samples/s",
        better="lower" if latency else "higher",
        ours=statistics.median(ours),
        peer=statistics.median(figures("plain")),
        peer_name="plain ONNX Runtime",
        limit=statistics.median(figures(OPENVINO)) if OPENVINO in times else None,
        limit_name="OpenVINO on the source, fp32" if OPENVINO in times else None,
        goal="no slower than plain ONNX Runtime by more than 2 %",
        rounds=ROUNDS,
        spread=(min(ours), max(ours)),
        note=note(timed, setting),
        passed=ratio >= SLOWEST_GOAL,
    )


def note(timed: Timed, setting: str) -> str:
    chosen = next(c for c in timed.chosen.manifest.candidates if c.status == "chosen")
    parts = [f"chosen: {chosen.name}"]
    ours = [(name, timed.ratio(setting, name)) for name in (CHOSEN, FP32, INT8)]
    parts.append("to plain ONNX Runtime: " + _list(ours))
    if INT8 in timed.failed:
        parts.append(f"no int8: {timed.failed[INT8]}")
    if setting == THROUGHPUT:
        streams = [(n, timed.ratio(setting, n + STREAMS, "plain" + STREAMS)) for n, _ in ours]
        parts.append("the same as streams: " + _list(streams))
    way = ", each as streams" if setting == THROUGHPUT else ""
    pairs = ((FP32, OPENVINO), (CHOSEN, OPENVINO), (CHOSEN, OPENVINO_DEFAULT), (INT8, NNCF),
             (CHOSEN, NNCF))  # fmt: skip
    for peer in (OPENVINO, OPENVINO_DEFAULT, NNCF):
        found = [(one, timed.beside(setting, one, other)) for one, other in pairs if other == peer]
        if any(ratio is not None for _, ratio in found):
            parts.append(f"to {_PEERS[peer]}{way}: {_list(found)}")
        else:
            parts.append(f"{_PEERS[peer]}: {timed.failed.get(peer, 'not timed')}")
    scores = ", ".join(f"{name} {score:.4f}" for name, score in timed.accuracy.items())
    parts.append(
        f"{timed.case.labelled}, on {timed.held_out} samples that no compilation saw: {scores}"
    )
    parts.append(f"size: {timed.source_bytes} to {chosen.size_bytes} bytes")
    return "; ".join(parts)


_PEERS = {
    OPENVINO: "OpenVINO in fp32",
    OPENVINO_DEFAULT: "OpenVINO as it comes",
    NNCF: "OpenVINO in int8 (NNCF)",
}


def _list(ratios: list[tuple[str, float | None]]) -> str:
    return ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios if ratio is not None)


def goals(timed: list[Timed]) -> list[Measure]:
    every = [(each, setting) for each in timed for setting in SETTINGS]
    ratios = [ratio for each, s in every if (ratio := each.ratio(s, CHOSEN)) is not None]
    neural = [
        ratio
        for each in timed
        if each.case.neural and (ratio := each.ratio(LATENCY, CHOSEN)) is not None
    ]
    names = ", ".join(each.case.name for each in timed)
    found = [
        _goal("slowest of all models and settings, against plain ONNX Runtime", min(ratios),
              SLOWEST_GOAL, ratios, "none slower than plain ONNX Runtime beyond 2 %", names),
        _goal("median of the neural models' latency, int8 allowed", statistics.median(neural),
              NEURAL_GOAL, neural, "at least 1.5 times plain ONNX Runtime",
              f"accuracy may drop by {MAX_DROP} on the samples that the compiler is given"),
    ]  # fmt: skip
    for ours, peer, what, said in (
        (FP32, OPENVINO, "fp32 against OpenVINO in fp32", "both in single precision"),
        (INT8, NNCF, "int8 against OpenVINO in int8", "NNCF's defaults, on the same samples"),
        (CHOSEN, OPENVINO, "chosen against OpenVINO in fp32", "chosen may be int8"),
        (CHOSEN, OPENVINO_DEFAULT, "chosen against OpenVINO as it comes",
         "it takes bfloat16 where the processor has it; ONNX Runtime has no such kernels"),
    ):  # fmt: skip
        beside = [r for each, s in every if (r := each.beside(s, ours, peer)) is not None]
        if beside:
            found.append(
                _goal(f"median of latency and throughput, {what}", statistics.median(beside),
                      OPENVINO_GOAL, beside, "within 10 % of OpenVINO or better",
                      f"{said}; throughput of both as streams; {len(beside)} figures")
            )  # fmt: skip
    return found


def _goal(
    what: str, ours: float, bound: float, all_of: list[float], goal: str, note: str
) -> Measure:
    return Measure(
        what=what, unit="ratio", better="higher", ours=ours, peer=1.0, peer_name="the other",
        limit=None, limit_name=None, goal=goal, rounds=ROUNDS, spread=(min(all_of), max(all_of)),
        note=note, passed=ours >= bound,
    )  # fmt: skip
