"""What a worker does with human loops: start, watch, stop, read their outputs."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from model_delivery.aws import service_client
from model_delivery.exceptions import (
    DeliveryError,
    InvalidRequestError,
    JobRefusedError,
    RequestDiffersError,
    StorageError,
    UnknownStatusError,
)
from model_delivery.human_loops.batch import LoopBatch, loop_name
from model_delivery.human_loops.calls import each_at_once
from model_delivery.human_loops.watch import EndedLoop, LoopWatch
from model_delivery.jobs.faults import (
    DENIED_CODES,
    MISSING_CODES,
    REFUSED_CODES,
    STATE_CODES,
    cause,
    error_code,
    is_credential_fault,
    is_passing,
    is_service_error,
)
from model_delivery.jobs.retries import (
    CREDENTIAL_REFUSALS,
    MISSING_ANSWERS,
    OUTAGE_SECONDS,
    Pause,
    until_answered,
)
from model_delivery.jobs.service import Call

log = logging.getLogger(__name__)

LARGEST_INPUT = 3 * 1024 * 1024
# Loops are started several at a time: one may be so much older than the first by its number.
_SKEW = timedelta(minutes=1)
# A loop that was made, or rights that were given, are not known to every host of a service at once.
_LOOK_REFUSALS = {
    **dict.fromkeys(DENIED_CODES, CREDENTIAL_REFUSALS),
    **dict.fromkeys(MISSING_CODES, MISSING_ANSWERS),
}


@dataclass(frozen=True)
class LoopInput:
    """What one loop is about.

    :param item: what tells it from others in the caller's data
    :param content: JSON text that reviewers see
    """

    item: str
    content: str

    @property
    def digest(self) -> str:
        """SHA-256 of the content: Describe does not give it back."""
        return f"sha256:{hashlib.sha256(self.content.encode()).hexdigest()}"


@dataclass(frozen=True)
class StartedLoop:
    """A loop and what it is about."""

    name: str
    item: str
    digest: str

    def line(self) -> bytes:
        """Return the loop's line of the manifest."""
        return json.dumps({"loop": self.name, "item": self.item, "digest": self.digest}).encode()


class HumanLoopWorker:
    """Human loops over one connection.

    :param open_hook: opens a `HumanLoopHook`; again when the connection's key was refused.
    :param pause: sleeps between attempts; once it is cut, nothing is started.
    :param outage: how long the service may give no usable answer before a call fails, in seconds.
        (default: 900)
    """

    def __init__(
        self,
        open_hook: Callable[[], Any],
        pause: Pause | None = None,
        outage: float = OUTAGE_SECONDS,
    ) -> None:
        self._open_hook = open_hook
        self._client = service_client(open_hook())
        self.pause = pause or Pause()
        self._outage = outage

    def start(
        self,
        flow_definition_arn: str,
        prefix: str,
        inputs: Iterable[LoopInput],
        attributes: Mapping[str, Any],
    ) -> Iterator[StartedLoop]:
        """Start a loop for each input, several at a time; one that is there already is kept.

        :raises RequestDiffersError: a loop of that name was started with another input.
        :raises JobRefusedError: the service refused an input, or the flow definition.
        """

        def start(numbered: tuple[int, LoopInput]) -> StartedLoop:
            if self.pause.cut:
                raise DeliveryError("the task was killed: no more human loops are started")
            number, given = numbered
            name = loop_name(prefix, number)
            _check_size(given)
            request = {
                "HumanLoopName": name,
                "FlowDefinitionArn": flow_definition_arn,
                "HumanLoopInput": {"InputContent": given.content},
                **attributes,
            }
            self._start(request, given.item)
            return StartedLoop(name, given.item, given.digest)

        yield from each_at_once(start, enumerate(inputs))

    def _start(self, request: Mapping[str, Any], item: str) -> None:
        name = request["HumanLoopName"]
        try:
            self._ask(Call("start_human_loop", request), f"human loop {name}")
        except Exception as error:
            if not is_service_error(error):
                raise
            code = error_code(error)
            if code in STATE_CODES:
                raise RequestDiffersError(
                    f"human loop {name} (item {item}) was started with another input: {error}. "
                    "Clear the task to start new loops"
                ) from error
            if code in REFUSED_CODES | MISSING_CODES:
                raise JobRefusedError(
                    f"human loop {name} (item {item}) was refused: {error}. Correct the input, or "
                    f"flow definition {request['FlowDefinitionArn']}"
                ) from error
            raise

    def created_after(self, batch: LoopBatch) -> str:
        """Return a time before the batch's first loop, by the service's clock; empty without."""
        first = next(iter(batch), None)
        answer = first and self._describe(first)
        if not answer:
            return ""
        created: datetime = answer["CreationTime"]
        return (created - _SKEW).isoformat()

    def ended(self, batch: LoopBatch, wait: Callable[[int], bool]) -> Iterator[EndedLoop]:
        """Yield each loop of a batch once it has ended.

        :param wait: is told how many are open after each look; false ends the wait
        """
        found: list[EndedLoop] = []
        watch = LoopWatch(batch.flow_definition_arn, found.append, _refuse)
        since = datetime.fromisoformat(batch.created_after) if batch.created_after else None
        watch.add(batch, since)
        while len(watch):
            self._look(watch)
            yield from found
            found.clear()
            if len(watch) and not watch.under_way and not wait(len(watch)):
                return

    def _look(self, watch: LoopWatch) -> None:
        calls = watch.round()
        call = next(calls, None)
        while call is not None:
            try:
                answer = self._ask(call, "the human loops", refusals=_LOOK_REFUSALS)
            except Exception as error:
                if error_code(error) not in MISSING_CODES:
                    raise
                answer = None
            try:
                call = calls.send(answer)
            except StopIteration:
                return

    def stop(
        self, names: Iterable[str], *, reopen: bool = True, absence: float | None = None
    ) -> int:
        """Stop loops; those that ended or are gone are left. Return how many were asked.

        :param absence: how long the service may be away, in seconds; not how long it may be busy.
            (default: as for all calls)
        :param reopen: whether the connection may be looked up again: not in a signal handler,
            which must not talk to Airflow.
        """
        refused: list[Exception] = []

        def stop(name: str) -> bool:
            try:
                call = Call("stop_human_loop", {"HumanLoopName": name})
                # Not cut short by a kill, which is why it is asked.
                self._ask(call, f"human loop {name}", Pause(), reopen=reopen, absence=absence)
            except Exception as error:
                if not is_service_error(error):
                    raise  # the service is away, and would be for each of them
                if error_code(error) not in MISSING_CODES | STATE_CODES | {"ValidationException"}:
                    refused.append(error)
                return False
            return True

        stopped = sum(each_at_once(stop, names))
        if refused:  # all others are stopped
            raise refused[0]
        return stopped

    def outputs(
        self, loops: Iterable[EndedLoop], flow: Mapping[str, Any], storage: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield name and output of completed loops, read several at a time.

        :param flow: the flow definition as it is described: says where outputs lie
        """
        lock = threading.Lock()

        def read(loop: EndedLoop) -> tuple[str, dict[str, Any]]:
            uri = output_uri(flow, loop)
            with lock:  # opens the store once
                store = storage.store(uri or flow["OutputConfig"]["S3OutputPath"])
            if uri is None or store.stat(uri) is None:
                answer = self._describe(loop.name) or {}
                uri = answer.get("HumanLoopOutput", {}).get("OutputS3Uri")
            if not uri:
                raise StorageError(f"human loop {loop.name} is Completed without an output")
            return loop.name, json.loads(storage.read_bytes(uri))

        yield from each_at_once(read, loops)

    def _describe(self, name: str) -> Mapping[str, Any] | None:
        try:
            answer: Mapping[str, Any] = self._ask(
                Call("describe_human_loop", {"HumanLoopName": name}),
                f"human loop {name}",
                refusals=_LOOK_REFUSALS,
            )
        except Exception as error:
            if error_code(error) in MISSING_CODES:
                return None
            raise
        return answer

    def _ask(
        self,
        call: Call,
        about: str,
        pause: Pause | None = None,
        *,
        reopen: bool = True,
        refusals: Mapping[str, int] | None = None,
        absence: float | None = None,
    ) -> Any:
        """Ask until there is an answer.

        :param refusals: how often what is refused by these codes is asked. (default: each once)
        """

        def explained(error: Exception) -> Exception:
            if refusals and error_code(error) in DENIED_CODES:
                return DeliveryError(
                    f"{about}: {error}: check the rights of the connection; a retry goes on where "
                    "this try ended"
                )
            if not is_credential_fault(error) and not is_passing(error):
                return error  # for the caller to tell what it means
            return DeliveryError(
                f"{about}: {error}: check that the service is up and the connection's key is "
                "good; a retry goes on where this try ended"
            )

        return until_answered(
            lambda: getattr(self._client, call.operation)(**call.parameters),
            pause or self.pause,
            most_failures=lambda error: _most_failures(error, refusals or {}),
            outage=self._outage,
            absence=absence,
            explained=explained,
            reopen=self._reopen if reopen else lambda: None,
        )

    def _reopen(self) -> None:
        try:
            # Of several threads each may do so: the last client stays, and all are good.
            self._client = service_client(self._open_hook())
        except Exception as error:  # Airflow may be away too: the client at hand is kept
            log.warning("The connection cannot be looked up again: %s", cause(error))


def _most_failures(error: Exception, refusals: Mapping[str, int]) -> int | None:
    if is_credential_fault(error):
        return CREDENTIAL_REFUSALS
    return None if is_passing(error) else refusals.get(error_code(error), 1)


def output_uri(flow: Mapping[str, Any], loop: EndedLoop) -> str | None:
    """Return where a loop's output lies by Augmented AI's layout; None without its time."""
    if loop.created is None:
        return None
    folder = str(flow["OutputConfig"]["S3OutputPath"]).rstrip("/")
    moment = f"{loop.created.astimezone(UTC):%Y/%m/%d/%H/%M/%S}"
    return f"{folder}/{flow['FlowDefinitionName']}/{moment}/{loop.name}/output.json"


def _check_size(given: LoopInput) -> None:
    size = len(given.content.encode())
    if size > LARGEST_INPUT:
        raise InvalidRequestError(
            f"the input of item {given.item} has {size} bytes, InputContent may have "
            f"{LARGEST_INPUT}: give reviewers the URI of an object instead"
        )


def _refuse(_name: str, error: UnknownStatusError) -> None:
    raise error
