"""Time models in turns: plain ONNX Runtime, what was compiled, OpenVINO. Runs where OpenVINO is.

`python timing.py TASK.json`: the models' files and their inputs; prints seconds of a run by runner,
a figure a round. Opening and three warm-up runs of each are not counted.

With one thread it is the processor time of the process, which other processes on the machine do not
lengthen. With more it is the time on the wall of the fastest run in the round: another process
takes a core from two threads and stops both, and what a session's threads spin after its last run
is the next one's loss. Then each model runs twice: a run at a time on every core, and as streams,
with a run on each core at once, which is OpenVINO's way to throughput (`PERFORMANCE_HINT`).

With `answers` it also writes what each model answers to the held-out samples.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Run = Callable[[dict[str, Any]], Any]
ROUND_SECONDS = 0.12
WARM_UP = 3
STREAMS = " streams"
CORES = os.cpu_count() or 1


def session_on(path: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def with_onnxruntime(path: str, threads: int) -> Run:
    session = session_on(path, threads)
    names = [each.name for each in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def streams_of_onnxruntime(path: str) -> Callable[[dict[str, Any], int], None]:
    """Return what runs a model many times, a run on each core at once."""
    session, pool = session_on(path, 1), ThreadPoolExecutor(CORES)

    def run(inputs: dict[str, Any], count: int) -> None:
        list(pool.map(lambda _: session.run(None, inputs), range(count)))

    return run


def compiled_by_openvino(path: str, threads: int, precision: str | None, hint: str) -> Any:
    """Return OpenVINO on a model; it rounds to bfloat16 where the processor has that, unless told.

    :param precision: ``f32``, or None for its own choice
    """
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    return openvino.Core().compile_model(path, "CPU", settings)


def with_openvino(path: str, threads: int, precision: str | None) -> Run:
    compiled = compiled_by_openvino(path, threads, precision, "LATENCY")
    request = compiled.create_infer_request()
    names = [each.any_name for each in compiled.outputs]

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        results = request.infer(inputs, share_inputs=True)
        return {name: results[n] for n, name in enumerate(names)}

    return run


def streams_of_openvino(path: str, precision: str | None) -> Callable[[dict[str, Any], int], None]:
    import openvino

    queue = openvino.AsyncInferQueue(compiled_by_openvino(path, CORES, precision, "THROUGHPUT"))

    def run(inputs: dict[str, Any], count: int) -> None:
        for _ in range(count):
            queue.start_async(inputs, share_inputs=True)
        queue.wait_all()

    return run


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


def of_streams(run: Callable[[dict[str, Any], int], None]) -> Callable[..., float]:
    """Return the seconds for a run when many are under way: the better of two halves of a round."""

    def figure(_run: Run, inputs: dict[str, Any], count: int) -> float:
        fastest = float("inf")
        most = max(4 * CORES, count)
        for _ in range(2):
            started = time.perf_counter()
            run(inputs, most)
            fastest = min(fastest, (time.perf_counter() - started) / most)
        return fastest

    return figure


def open_runners(task: dict[str, Any]) -> tuple[dict[str, Run], dict[str, Any], dict[str, str]]:
    """Return each model's runner, how each is timed, and what cannot be opened."""
    threads = task["threads"]
    runners: dict[str, Run] = {}
    figures: dict[str, Any] = {}
    failed: dict[str, str] = {}
    one_by_one = mean_processor_time if threads == 1 else fastest_on_the_wall
    for name, path in task["files"].items():
        runners[name], figures[name] = with_onnxruntime(path, threads), one_by_one
        if threads > 1:
            runners[name + STREAMS] = runners[name]
            figures[name + STREAMS] = of_streams(streams_of_onnxruntime(path))
    for name, (path, precision) in task["openvino"].items():
        try:
            runners[name], figures[name] = with_openvino(path, threads, precision), one_by_one
            runners[name](task["arrays"])
            if threads > 1:
                streams = streams_of_openvino(path, precision)
                streams(task["arrays"], 1)
                runners[name + STREAMS], figures[name + STREAMS] = (
                    runners[name],
                    of_streams(streams),
                )
        except Exception as error:  # what OpenVINO cannot read is part of the result
            runners.pop(name, None)
            failed[name] = str(error).strip().splitlines()[0][:200]
    return runners, figures, failed


def write_answers(runners: dict[str, Run], task: dict[str, Any]) -> None:
    with np.load(task["held_out"]) as file:
        arrays = {name: file[name] for name in task["arrays"]}
    count = len(next(iter(arrays.values())))
    answers = {}
    for runner, run in runners.items():
        rows = [run({k: v[n : n + 1] for k, v in arrays.items()}) for n in range(count)]
        answers[runner] = np.concatenate([np.array(row[task["output"]]) for row in rows])
    np.savez(task["answers"], **answers)


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    with np.load(task["inputs"]) as file:
        inputs = task["arrays"] = {name: file[name] for name in file.files}
    runners, figures, failed = open_runners(task)
    if task.get("answers"):
        write_answers(runners, task)
    counts = {}
    for name, run in runners.items():
        for _ in range(WARM_UP):
            run(inputs)
        started = time.perf_counter()
        run(inputs)
        counts[name] = max(1, int(ROUND_SECONDS / (time.perf_counter() - started)))
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(task["rounds"]):
        for name, run in runners.items():
            times[name].append(figures[name](run, inputs, counts[name]))
    print(json.dumps({"times": times, "failed": failed}))


main()
