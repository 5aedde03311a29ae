"""Exactly one job for one task instance, whatever is killed in between.

Intent is persisted before the call and the handle right after it, in Airflow's task state store,
which survives a retry. A try that finds an intent without a handle knows that the call may have
been made: the name is deterministic, so it makes the call again and "already exists" leads it to
the job, whose request must be ours.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from model_delivery.exceptions import DeliveryError, JobRefusedError, RequestDiffersError
from model_delivery.jobs.client import REFUSED_CODES, JobClient, error_code
from model_delivery.jobs.naming import job_name, resubmissions
from model_delivery.jobs.service import Handle


class StateStore(Protocol):
    """The part of Airflow's task state store that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was set, or the default."""

    def set(self, key: str, value: Any) -> None:
        """Persist a JSON value."""


class Submission:
    """The submission of one task instance.

    :param client: the service.
    :param store: `context["task_state_store"]`.
    :param ti: the task instance.
    """

    def __init__(self, client: JobClient, store: StateStore, ti: Any) -> None:
        self._client = client
        self._store = store
        self._ti = ti
        # A deliberate clear keeps the state store but must make a new job: it has its own key.
        self._key = f"model_delivery.job.{resubmissions(ti)}"

    def submit_once(self, request: Mapping[str, Any]) -> tuple[Handle, bool]:
        """Return the handle of our job and whether this call made it.

        :param request: the service's request without a name.
        :raises RequestDiffersError: when a different request stands under our name.
        """
        record = self._record()
        if record["handle"]:
            return dict(record["handle"]), False
        named = {**request, self._client.service.name_parameter: self._name(record)}
        self._store.set(self._key, record)
        handle, made = self._create_or_attach(named)
        self._store.set(self._key, {**record, "handle": handle})
        return handle, made

    def forget_failed(self) -> None:
        """After a job that ended badly: the next try submits a new one, under a new name."""
        record = self._record()
        self._store.set(self._key, {"generation": record["generation"] + 1, "handle": None})

    def _record(self) -> dict[str, Any]:
        return dict(self._store.get(self._key) or {"generation": 0, "handle": None})

    def _name(self, record: Mapping[str, Any]) -> str:
        return job_name(self._ti, int(record["generation"]))

    def _create_or_attach(self, request: Mapping[str, Any]) -> tuple[Handle, bool]:
        from botocore.exceptions import BotoCoreError, ClientError

        service = self._client.service
        name = request[service.name_parameter]
        if not service.taken_codes and (found := self._client.find(request)):
            # The service makes a second job under the same name without a word: look first.
            return self._attach(request, found), False
        call = service.submit_call(request)
        try:
            return service.submitted(request, self._client.run(call)), True
        except ClientError as error:
            code = error_code(error)
            if code in service.taken_codes:
                return self._attach(request, self._client.find(request)), False
            message = f"{service.noun} {name} was refused: {error}"
            if code in REFUSED_CODES or code in service.missing_codes:
                raise JobRefusedError(f"{message.rstrip('.')}. Correct the request.") from error
            raise DeliveryError(message) from error
        except BotoCoreError as error:
            raise DeliveryError(
                f"{call.operation} for {service.noun} {name} got no answer: {error}: "
                "check the connection's endpoint; a retry finds the job if it was made"
            ) from error

    def _attach(
        self, request: Mapping[str, Any], found: tuple[Handle, Mapping[str, Any]] | None
    ) -> Handle:
        noun = self._client.service.noun
        name = request[self._client.service.name_parameter]
        if found is None:
            raise DeliveryError(f"{noun} {name} exists and was gone when looked at: retry")
        handle, theirs = found
        differing = [
            f"{key}: ours {request.get(key)!r}, theirs {theirs.get(key)!r}"
            for key in sorted(set(request) & set(theirs))
            if request[key] != theirs[key]
        ]
        if differing:
            raise RequestDiffersError(
                f"{noun} {name} already exists with another request ({'; '.join(differing)}): "
                "clear the task to submit under a new name"
            )
        return handle
