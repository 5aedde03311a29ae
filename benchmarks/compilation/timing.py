"""Time models in turns: plain ONNX Runtime, what was compiled, OpenVINO. Runs where OpenVINO is.

`python timing.py TASK.json`: the models' files and their inputs; prints seconds of a run by runner,
a figure a round. Opening and three warm-up runs of each are not counted. With one thread it is the
processor time of the process, which other processes on the machine do not lengthen. With more it is
the time on the wall of the fastest run in the round: another process takes a core from two threads
and stops both, and what a session's threads spin after its last run is the next one's loss.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Run = Callable[[dict[str, Any]], Any]
ROUND_SECONDS = 0.12
WARM_UP = 3


def with_onnxruntime(path: str, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def with_openvino(path: str, threads: int, precision: str | None) -> Run:
    """Return OpenVINO on a model; it rounds to bfloat16 where the processor has that, unless told.

    :param precision: ``f32``, or None for its own choice
    """
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda inputs: request.infer(inputs, share_inputs=True)


def mean_processor_time(run: Run, inputs: dict[str, Any], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        run(inputs)
    return (time.process_time() - started) / count


def fastest_on_the_wall(run: Run, inputs: dict[str, Any], count: int) -> float:
    fastest = float("inf")
    for _ in range(max(2, count)):
        started = time.perf_counter()
        run(inputs)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    threads, rounds = task["threads"], task["rounds"]
    with np.load(task["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    runners, failed = {}, {}
    for name, path in task["files"].items():
        runners[name] = with_onnxruntime(path, threads)
    for name, precision in (("openvino", "f32"), ("openvino default", None)):
        try:
            runners[name] = with_openvino(task["files"]["plain"], threads, precision)
            runners[name](inputs)
        except Exception as error:  # what OpenVINO cannot read is part of the result
            runners.pop(name, None)
            failed[name] = str(error).strip().splitlines()[0][:200]
    counts = {}
    for name, run in runners.items():
        for _ in range(WARM_UP):
            run(inputs)
        started = time.perf_counter()
        run(inputs)
        counts[name] = max(1, int(ROUND_SECONDS / (time.perf_counter() - started)))
    times = {name: [] for name in runners}
    figure = mean_processor_time if threads == 1 else fastest_on_the_wall
    for _ in range(rounds):
        for name, run in runners.items():
            times[name].append(figure(run, inputs, counts[name]))
    print(json.dumps({"times": times, "failed": failed}))


main()
