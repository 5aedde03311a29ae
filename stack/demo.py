"""The main job, once: start the stack, run the DAG over REST, write the summary."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from stack.airflow import ADMIN
from stack.object_store import BUCKET, s3_client
from stack.processes import StackError
from stack.rest import AirflowRefusedError, AirflowRest
from stack.reviewers import ScriptedReviewers, digit_judge, either, form_judge, labels_of
from stack.stack import THING, Stack

DAG_ID = "model_delivery"
COMPONENT = "digits"
RUN_SECONDS = 600.0
SAMPLES = f"s3://{BUCKET}/samples"
UPLOADS_AT_A_TIME = 8


def upload_samples(stack: Stack, folder: Path) -> dict[str, Any]:
    """Train the sample model and put its archive and the held-out images into the store."""
    from include.samples.digits import write_samples

    facts = write_samples(folder, f"{SAMPLES}/pictures")
    store = s3_client(stack.store_port, stack.credentials)
    pictures = [f"pictures/{path.name}" for path in sorted(facts.pictures.iterdir())]
    with ThreadPoolExecutor(UPLOADS_AT_A_TIME) as pool:
        for done in pool.map(
            lambda name: store.upload_file(str(folder / name), BUCKET, f"samples/{name}"),
            ("digits.tar.gz", "held_out.jsonl", *pictures),
        ):
            assert done is None
    return {"held_out": facts.held_out, "accuracy_at_training": facts.accuracy}


def upload_forms(stack: Stack, folder: Path) -> dict[str, dict[str, str]]:
    """Put the sample documents into the store, which `human_review` reads; return their texts."""
    from include.samples.forms import write_forms

    facts = write_forms(folder)
    store = s3_client(stack.store_port, stack.credentials)
    for name in facts.truth:
        store.upload_file(str(folder / name), BUCKET, f"samples/forms/{name}")
    return facts.truth


def upload_movielens(stack: Stack, folder: Path) -> dict[str, Any]:
    """Put MovieLens-100k into the store, which `recommend_batch` trains on; it is fetched first.

    :raises StackError: when it could not be fetched.
    """
    from include.samples.movielens import DownloadError, write_movielens

    try:
        facts = write_movielens(folder)
    except DownloadError as error:
        raise StackError(str(error)) from error
    store = s3_client(stack.store_port, stack.credentials)
    for path in (facts.interactions, facts.items):
        store.upload_file(str(path), BUCKET, f"samples/movielens/{path.name}")
    return {"ratings": facts.ratings, "films": facts.films}


def run_demo(home: Path, out: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the main job end to end and return what is written to `summary.json`.

    :param home: folder of the stack's state, emptied first.
    :param out: folder of the results.
    :raises StackError: when a part did not start or a stage failed, with the reason.
    """
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.monotonic()
    with for_scripted_reviews(Stack(home, say)) as stack:
        trained = upload_samples(stack, home / "samples")
        say(f"sample model trained: {trained['accuracy_at_training']:.4f} on held-out images")
        say("two scripted reviewers answer what the model is unsure of")
        with (
            _watched(stack),
            scripted_reviewers(stack, home / "samples") as reviewers,
            AirflowRest(stack.airflow.url, ADMIN, stack.airflow.password) as rest,
        ):
            rest.wait_for_dag(DAG_ID)
            ready = time.monotonic()
            summary = _run(stack, rest, say)
        summary["seconds"] = {
            "start": round(ready - started, 1),
            "run": summary.pop("run_seconds"),
            "total": round(time.monotonic() - started, 1),
        }
        summary["reviewers"] = {"scripted": True, "answers": reviewers.answers}
        summary["resident_mib"] = round(stack.resident_bytes() / 2**20)
        summary["sample"] = trained
        summary["device"] = stack.device_model(COMPONENT)
        _save_report(stack, summary, out)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def for_scripted_reviews(stack: Stack) -> Stack:
    """Set a stack up for reviewers who take no answer back, so outputs are written at once."""
    stack.cloud.env["LOCALCLOUD_REVIEW_UNDO_SECONDS"] = "0"
    return stack


def scripted_reviewers(
    stack: Stack, samples: Path, forms: Mapping[str, Mapping[str, str]] | None = None
) -> ScriptedReviewers:
    """Return reviewers of the sample: they know the labels; the second errs on hard ones.

    :param forms: what stands in the documents of `human_review`, by name. (default: none)
    """
    judge_of = either(digit_judge(labels_of(samples / "held_out.jsonl")), form_judge(forms or {}))
    return ScriptedReviewers(stack.cloud, stack.credentials, judge_of)


@contextmanager
def _watched(stack: Stack) -> Iterator[None]:
    """Name the part that is to blame where Airflow's API fails."""
    try:
        yield
    except (AirflowRefusedError, httpx.HTTPError) as error:
        stack.require_running()
        raise StackError(f"Airflow: {error}; its logs are in {stack.airflow.home}") from error


def _run(stack: Stack, rest: AirflowRest, say: Callable[[str], None]) -> dict[str, Any]:
    rest.unpause(DAG_ID)
    conf = {"model_uri": f"{SAMPLES}/digits.tar.gz", "input_uri": f"{SAMPLES}/held_out.jsonl"}
    run_id = rest.trigger(DAG_ID, {**conf, "thing_name": THING})
    say(f"run {run_id} started: {stack.airflow.url}/dags/{DAG_ID}/runs/{run_id}")
    run = rest.wait(
        DAG_ID, run_id, RUN_SECONDS,
        progress=lambda task: _progress(task, say), check=stack.require_running,
    )  # fmt: skip
    tasks = sorted(rest.tasks(DAG_ID, run_id), key=lambda task: task["start_date"] or "~")
    if run["state"] != "success":
        raise StackError(_why(rest, tasks))
    stages = [_stage(rest, task) for task in tasks]
    gate = next(stage["result"] for stage in stages if stage["task"] == "quality_gate")
    return {
        "dag_run_id": run_id,
        "accuracy": {key: gate[key] for key in ("accuracy", "interval_low", "records", "errors")},
        "run_seconds": seconds_between(run["start_date"], run["end_date"]),
        "stages": stages,
    }


def _progress(task: Mapping[str, Any], say: Callable[[str], None]) -> None:
    if task["state"] in {"success", "failed", "up_for_retry", "upstream_failed"}:
        say(f"  {_label(task)}: {task['state']} ({task['duration'] or 0:.1f} s)")


def _label(task: Mapping[str, Any]) -> str:
    mapped = f"[{task['map_index']}]" if task["map_index"] >= 0 else ""
    return f"{task['task_id']}{mapped}"


def _stage(rest: AirflowRest, task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": _label(task),
        "state": task["state"],
        "seconds": seconds_between(task["start_date"], task["end_date"]),
        "result": rest.xcom(task),
    }


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two ISO times, to a tenth."""
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 1)


def _why(rest: AirflowRest, tasks: list[dict[str, Any]]) -> str:
    for task in tasks:
        if task["state"] == "failed":
            reasons = [line for line in rest.log(task) if "Error" in line or "Exception" in line]
            return f"stage {_label(task)} failed: {reasons[-1] if reasons else 'see its log'}"
    return "the run failed before any task ran: see the scheduler's log"


def _save_report(stack: Stack, summary: dict[str, Any], out: Path) -> None:
    by_task = {stage["task"]: stage["result"] for stage in summary["stages"]}
    uri = by_task["report"]["report_uri"]
    key = uri.removeprefix(f"s3://{BUCKET}/")
    s3_client(stack.store_port, stack.credentials).download_file(
        BUCKET, key, str(out / "report.html")
    )
    summary["report"] = {"uri": uri, "file": "build/demo/report.html"}
