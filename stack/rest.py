"""A client of Airflow's REST API, as far as the main job and its tests need it."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

DATABASE_ATTEMPTS = 4
# SQLite lets the API server wait for 5 s (`stack.airflow`), and a call may write more than once.
LONGEST_ANSWER_SECONDS = 60


class AirflowRefusedError(RuntimeError):
    """Airflow answered a call with an error; the message is its own."""


class AirflowRest:
    """Airflow's API v2 with a token of its own."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=LONGEST_ANSWER_SECONDS)
        answer = self._client.post("/auth/token", json={"username": user, "password": password})
        token = self._checked(answer)["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> "AirflowRest":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.is_error:
            try:
                detail = answer.json()["detail"]
            except (ValueError, KeyError, TypeError):
                detail = answer.text
            raise AirflowRefusedError(f"{answer.request.url.path}: {answer.status_code} {detail}")
        return answer.json()

    def _send(self, method: str, path: str, **content: Any) -> Any:
        """Send, and again where SQLite was locked by another part of Airflow, which undid all."""
        for attempt in range(DATABASE_ATTEMPTS):
            answer = self._client.request(method, f"/api/v2{path}", **content)
            locked = answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR
            if not (locked and "Database error" in answer.text):
                break
            time.sleep(0.5 * (attempt + 1))
        return self._checked(answer)

    def get(self, path: str, **params: Any) -> Any:
        """GET below `/api/v2`."""
        return self._send("GET", path, params=params)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """PATCH below `/api/v2`."""
        return self._send("PATCH", path, json=dict(body))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST below `/api/v2`."""
        return self._send("POST", path, json=dict(body))

    def wait_for_dag(self, dag_id: str, seconds: float = 120) -> None:
        """Return once the DAG is parsed; raise with its import error or after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._client.get(f"/api/v2/dags/{dag_id}").is_success:
                return
            if errors := self.get("/importErrors")["import_errors"]:
                raise AirflowRefusedError(f"{errors[0]['filename']}: {errors[0]['stack_trace']}")
            time.sleep(0.5)
        raise AirflowRefusedError(f"DAG {dag_id} was not parsed within {seconds:.0f} s")

    def unpause(self, dag_id: str, *, paused: bool = False) -> None:
        """Let the DAG's runs start (or no longer)."""
        self.patch(f"/dags/{dag_id}", {"is_paused": paused})

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run now and return its id."""
        body = {"logical_date": None, "conf": dict(conf)}
        return str(self.post(f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a run."""
        return dict(self.get(f"/dags/{dag_id}/dagRuns/{run_id}"))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self.get(path, limit=100)["task_instances"])

    def xcom(self, task: Mapping[str, Any], key: str = "return_value") -> Any:
        """Return one XCom of a task instance, or None."""
        path = (
            f"/api/v2/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}"
            f"/taskInstances/{task['task_id']}/xcomEntries/{key}"
        )
        answer = self._client.get(path, params={"map_index": task["map_index"]})
        return (
            None if answer.status_code == httpx.codes.NOT_FOUND else self._checked(answer)["value"]
        )

    def log(self, task: Mapping[str, Any]) -> list[str]:
        """Return the lines of the newest try's log: each event, with its error where it has one."""
        path = (
            f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}"
            f"/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        )
        content = self.get(path, map_index=task["map_index"])["content"]
        return [line for entry in content for line in _lines(entry)]

    def wait(
        self,
        dag_id: str,
        run_id: str,
        seconds: float,
        progress: Callable[[dict[str, Any]], None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the finished run.

        :param progress: takes each task instance when its state changes.
        :param check: called now and then; what it raises ends the wait.
        """
        seen: dict[tuple[str, int], str | None] = {}
        deadline = time.monotonic() + seconds
        while True:
            if check:
                check()
            run = self.run(dag_id, run_id)
            for task in self.tasks(dag_id, run_id) if progress else []:
                key = (task["task_id"], task["map_index"])
                if seen.get(key) != task["state"]:
                    seen[key] = task["state"]
                    if progress:
                        progress(task)
            if run["state"] in {"success", "failed"}:
                return run
            if time.monotonic() > deadline:
                raise AirflowRefusedError(
                    f"run {run_id} is still {run['state']} after {seconds:.0f} s"
                )
            time.sleep(0.5)


def _lines(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    # The first is what the task raised, those behind it are its causes.
    errors = (entry.get("error_detail") or [])[:1]
    raised = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in errors]
    return [str(entry.get("event", "")), *raised]
