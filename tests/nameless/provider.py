"""What a provider adds for the nameless service: hook, service, operator, sensor."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from airflow.sdk import BaseHook
from model_delivery.jobs.operator import JobOperator
from model_delivery.jobs.sensor import JobSensor
from model_delivery.jobs.service import Call, Handle, Intent, JobDescription, JobService
from model_delivery.jobs.status import StatusTable

# The signatures of AWS's protocols allow no more difference between two clocks than minutes.
MOST_SKEW = timedelta(days=1)


class Client:
    """Calls as httpx requests, errors as botocore's."""

    def __init__(self, http: Any) -> None:
        self._http = http

    def _requested(self, operation: str, given: Mapping[str, Any]) -> tuple[str, str, Any]:
        job = given.get("jobId", "")
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return {
            "create_job": ("POST", "/jobs", given),
            "describe_job": ("GET", f"/jobs/{job}", None),
            "stop_job": ("DELETE", f"/jobs/{job}", None),
            "list_jobs": ("GET", f"/jobs?{query}", None),
        }[operation]

    def __getattr__(self, operation: str) -> Any:
        def call(**given: Any) -> Any:
            import httpx
            from botocore.exceptions import HTTPClientError

            method, path, body = self._requested(operation, given)
            try:
                answer = self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise HTTPClientError(error=f"{type(error).__name__} {error}") from error
            return _checked(answer, operation)

        return call


class AsyncClient(Client):
    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.aclose()

    def __getattr__(self, operation: str) -> Any:
        async def call(**given: Any) -> Any:
            import httpx
            from botocore.exceptions import HTTPClientError

            method, path, body = self._requested(operation, given)
            try:
                answer = await self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise HTTPClientError(error=f"{type(error).__name__} {error}") from error
            return _checked(answer, operation)

        return call


def _checked(answer: Any, operation: str) -> Any:
    from botocore.exceptions import ClientError
    from botocore.parsers import ResponseParserError

    if answer.is_success:
        try:
            return answer.json()
        except ValueError as error:  # a page of something on the way
            raise ResponseParserError(f"{operation}: {error}") from error
    try:
        body = answer.json()
    except ValueError:
        body = {}
    code = body.get("code") or body.get("__type") or str(answer.status_code)
    error = {"Code": code, "Message": body.get("message", "")}
    metadata: Any = {"HTTPStatusCode": answer.status_code}
    raise ClientError({"Error": error, "ResponseMetadata": metadata}, operation)


class NamelessHook(BaseHook):
    """Takes what every hook of the lifecycle takes; host and port are the connection's."""

    def __init__(self, aws_conn_id: str | None, region_name: Any, verify: Any, config: Any) -> None:
        super().__init__()
        self.aws_conn_id = aws_conn_id

    def connect(self) -> Any:
        import httpx

        connection = self.get_connection(str(self.aws_conn_id))
        return httpx.Client(base_url=_url(connection), timeout=60)

    @property
    def conn(self) -> Client:
        if not hasattr(self, "_client"):
            self._client = Client(self.connect())
        return self._client

    async def get_async_conn(self) -> AsyncClient:
        import httpx

        connection = await self.aget_connection(str(self.aws_conn_id))
        return AsyncClient(httpx.AsyncClient(base_url=_url(connection), timeout=60))


def _url(connection: Any) -> str:
    return f"http://{connection.host}:{connection.port}"


class NamelessJobs(JobService):
    """Found again by what they work on, among those made since the intent."""

    hook_path = "tests.nameless.provider.NamelessHook"
    noun = "nameless job"
    settle_seconds = 10.0
    statuses = StatusTable(
        service="the nameless service",
        running=("RUNNING",),
        succeeded=("SUCCEEDED",),
        failed=("FAILED", "REFUSED"),
        stopped=("STOPPED",),
    )

    def submit_call(self, request: Mapping[str, Any]) -> Call:
        return Call("create_job", request)

    def key(self, handle: Handle) -> str:
        """Return the id."""
        return handle["id"]

    def submitted(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> Handle:
        return {"name": response["jobId"], "id": response["jobId"]}

    def describe_calls(self, handle: Handle) -> Sequence[Call]:
        return [Call("describe_job", {"jobId": handle["id"]})]

    def described(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        (answer,) = responses
        status = answer["status"]
        return JobDescription(
            handle=handle,
            status=status,
            state=self.statuses.state(status, f"nameless job {handle['id']}"),
            retryable=status != "REFUSED",
            detail=answer,
        )

    def stop_call(self, handle: Handle) -> Call:
        return Call("stop_job", {"jobId": handle["id"]})

    def search(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"model": request["model"], "sources": request["sources"]}

    def find_calls(self, intent: Intent) -> Sequence[Call]:
        after = (intent.at - MOST_SKEW).timestamp()
        return [Call("list_jobs", {"createdAfter": after}, token="start")]

    def found(self, intent: Intent, responses: Iterable[Mapping[str, Any]]) -> Iterator[Handle]:
        for page in responses:
            for job in page["jobs"]:
                if self.search(job) == intent.search:
                    yield self.submitted({}, job)

    def requested(self, description: JobDescription) -> Mapping[str, Any]:
        fields = ("model", "sources", "seconds", "outcome")
        return {name: description.detail[name] for name in fields}


class NamelessResult(TypedDict):
    version: int
    job_id: str
    status: str


class NamelessJobOperator(JobOperator):
    """Runs one nameless job of so many seconds."""

    template_fields = ("model", "sources", "seconds", "outcome")

    def __init__(
        self,
        *,
        model: str,
        sources: list[str],
        seconds: float = 2.0,
        outcome: str = "SUCCEEDED",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.sources = sources
        self.seconds = seconds
        self.outcome = outcome

    @property
    def service(self) -> JobService:
        return NamelessJobs()

    def build_request(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "sources": list(self.sources),
            "seconds": float(self.seconds),
            "outcome": self.outcome,
        }

    def page_url(self, handle: Handle) -> str:
        return f"http://nameless.invalid/jobs/{handle['id']}"

    def identity(self, handle: Handle) -> dict[str, str]:
        return {"job_id": handle["id"]}

    def result(self, description: JobDescription) -> NamelessResult:
        return nameless_result(description)


def nameless_result(description: JobDescription) -> NamelessResult:
    return {"version": 1, "job_id": description.handle["id"], "status": description.status}


class NamelessJobSensor(JobSensor):
    """Waits for a nameless job that something else submitted."""

    template_fields = ("job",)

    def __init__(self, *, job: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job

    @property
    def service(self) -> JobService:
        return NamelessJobs()

    def handle(self) -> Handle:
        return {"name": self.job, "id": self.job}

    def result(self, description: JobDescription) -> NamelessResult:
        return nameless_result(description)
