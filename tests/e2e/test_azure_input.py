"""The main job with model and data on Azure Blob: only the URIs change."""

from typing import Any

CONTAINER = "trained"


def test_the_main_job_runs_with_its_input_on_azure(world: Any) -> None:
    world.azure.container(CONTAINER)
    for name in ("digits.tar.gz", "held_out.jsonl"):
        world.azure.upload(CONTAINER, name, (world.samples / name).read_bytes())
    run_id = world.start(
        model_uri=f"wasbs://{CONTAINER}@modeldelivery/digits.tar.gz",
        input_uri=f"abfss://{CONTAINER}@modeldelivery/held_out.jsonl",
    )
    state, tasks = world.finish(run_id)
    assert state == "success", {name: task["state"] for name, task in tasks.items()}
    assert world.rest.xcom(tasks["quality_gate:-1"])["accuracy"] > 0.95
