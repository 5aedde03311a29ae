"""The state that Airflow's database has of a task, asked for by the task itself or its trigger."""

from typing import Any

# What Airflow writes of a task that it is about to schedule.
NO_STATE = "none"
DEFERRED = "deferred"
RUNNING = "running"
# A user ended the task while it ran.
USER_ENDED = frozenset({"failed", "success", "skipped", "removed"})
# The task runs, or will: nobody ended it, and nobody cleared it while it ran.
ACTIVE = frozenset(
    {NO_STATE, "scheduled", "queued", RUNNING, DEFERRED, "up_for_retry", "up_for_reschedule"}
)


def task_state(ti: Any) -> str | None:
    """Return the state of a task instance; None where there is no such task instance any more.

    :raises AirflowRuntimeError: when Airflow does not tell.
    """
    ask = getattr(ti, "get_task_states", None)
    if ask is None:  # a trigger's task instance does not bring the question
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ask = RuntimeTaskInstance.get_task_states
    states = ask(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
    )
    of_run = states.get(ti.run_id, {})
    return next((state or NO_STATE for state in of_run.values()), None)
