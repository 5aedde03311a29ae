"""One whole stack for all end-to-end tests: it is started once, as `make up` starts it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stack.airflow import ADMIN
from stack.azure_store import AzureStore
from stack.demo import (
    COMPONENT,
    DAG_ID,
    SAMPLES,
    for_scripted_reviews,
    scripted_reviewers,
    upload_forms,
    upload_samples,
)
from stack.object_store import s3_client
from stack.rest import AirflowRest
from stack.stack import THING, Stack

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROJECT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 300.0
# The cron run of the tests: far enough ahead that the stack is up and the other starts are over.
CRON_AHEAD = timedelta(minutes=5)


@dataclass
class World:
    """The running stack, its REST client and its stores."""

    stack: Stack
    rest: AirflowRest
    azure: AzureStore
    s3: Any
    cron_at: datetime
    samples: Path
    # What stands in the sample documents, by name and key.
    forms: dict[str, dict[str, str]]
    # What the device answered right after the first delivery: later runs deploy again.
    device: dict[str, object] = field(default_factory=dict)

    def sign_in(self, page: "Page") -> None:
        """Sign the page's browser in at Airflow's UI."""
        page.goto(self.stack.airflow.url)
        page.fill("input[name=username]", ADMIN)
        page.fill("input[name=password]", self.stack.airflow.password)
        page.keyboard.press("Enter")
        page.wait_for_url("**/")

    def start(self, **conf: Any) -> str:
        """Trigger the DAG over REST and return the run's id."""
        base = {
            "model_uri": f"{SAMPLES}/digits.tar.gz",
            "input_uri": f"{SAMPLES}/held_out.jsonl",
            "thing_name": THING,
        }
        return self.rest.trigger(DAG_ID, {**base, **conf})

    def finish(self, run_id: str) -> tuple[str, dict[str, dict[str, Any]]]:
        """Wait for a run; return its state and its task instances by label."""
        run = self.rest.wait(DAG_ID, run_id, RUN_SECONDS)
        tasks = self.rest.tasks(DAG_ID, run_id)
        return run["state"], {f"{task['task_id']}:{task['map_index']}": task for task in tasks}

    def log(self, task: dict[str, Any]) -> str:
        """Return the text of a task's newest log."""
        return "\n".join(self.rest.log(task))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = PROJECT / ".local" / "e2e"
    shutil.rmtree(home, ignore_errors=True)
    azure = AzureStore(home / "azurite")
    blobs = azure.process().start()
    try:
        blobs.wait_healthy(60)
        cron_at = (datetime.now(UTC) + CRON_AHEAD).replace(second=0, microsecond=0)
        settings = {
            "MODEL_DELIVERY_CRON": f"{cron_at.minute} {cron_at.hour} * * *",
        }
        connections = {"wasb_default": azure.airflow_connection()}
        made = Stack(home, connections=connections, settings=settings)
        with for_scripted_reviews(made) as stack:
            samples = tmp_path_factory.mktemp("samples")
            upload_samples(stack, samples)
            forms = upload_forms(stack, samples / "forms")
            s3 = s3_client(stack.store_port, stack.credentials)
            with (
                scripted_reviewers(stack, samples, forms),
                AirflowRest(stack.airflow.url, ADMIN, stack.airflow.password) as rest,
            ):
                for dag_id in (DAG_ID, "incoming_models"):
                    rest.wait_for_dag(dag_id)
                    rest.unpause(dag_id)
                yield World(stack, rest, azure, s3, cron_at, samples, forms)
    finally:
        blobs.stop()


@pytest.fixture(scope="session")
def delivered(world: World) -> tuple[str, dict[str, dict[str, Any]]]:
    """One main job that succeeded: its run id and its task instances."""
    run_id = world.start()
    state, tasks = world.finish(run_id)
    assert state == "success", {name: task["state"] for name, task in tasks.items()}
    world.device = world.stack.device_model(COMPONENT)
    return run_id, tasks
