"""Greengrass v2 deployments, AWS IoT's things, and the inference API of a device.

Sources: IoT Greengrass v2 API (CreateComponentVersion, CreateDeployment, GetDeployment,
ListEffectiveDeployments, CancelDeployment); Open Inference Protocol v2, REST.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from model_delivery.exceptions import EdgeError
from model_delivery.hooks.aws import AwsServiceHook
from model_delivery.jobs.service import (
    Call,
    Handle,
    Intent,
    JobDescription,
    JobList,
    JobService,
    ListedJob,
)
from model_delivery.jobs.status import JobState, StatusTable

if TYPE_CHECKING:
    import httpx


class GreengrassV2Hook(AwsServiceHook):
    """Thin hook over boto3's `greengrassv2` client."""

    service = "greengrassv2"


class IotHook(AwsServiceHook):
    """Thin hook over boto3's `iot` client: things and their groups."""

    service = "iot"


class EffectiveDeployments(JobList):
    """ListEffectiveDeployments of one core device: how far each deployment got there."""

    # Whether the deployment was cancelled or replaced is not in this list.
    tells_the_end = False
    reads_per_description = 5

    def scope(self, handle: Handle) -> str:
        """Return the device."""
        return handle["thing"]

    def call(self, scope: str, modified_after: datetime | None) -> Call:
        """ListEffectiveDeployments."""
        parameters = {"coreDeviceThingName": scope, "maxResults": 100}
        # A device that has not reported yet has no deployment in effect.
        nothing: dict[str, Any] = {"effectiveDeployments": []}
        return Call("list_effective_deployments", parameters, "nextToken", nothing)

    def read(self, response: Mapping[str, Any]) -> Sequence[ListedJob]:
        """Deployment id and the device's word on it."""
        return [
            ListedJob(each["deploymentId"], each["coreDeviceExecutionStatus"])
            for each in response["effectiveDeployments"]
        ]


class Deployments(JobService):
    """Deployments to one core device, for the lifecycle.

    Done means that the device's effective deployment is ours and succeeded: Greengrass calls a
    deployment COMPLETED or keeps it ACTIVE by rules of its own, and a device may be away.
    """

    hook_path = "model_delivery.hooks.edge.GreengrassV2Hook"
    noun = "deployment"
    name_parameter = "deploymentName"
    job_list = EffectiveDeployments()
    # The client token was used with another request.
    taken_codes = frozenset({"ConflictException"})
    statuses = StatusTable(
        service="Greengrass",
        running=("ACTIVE", "QUEUED", "IN_PROGRESS"),
        succeeded=("SUCCEEDED", "COMPLETED"),
        failed=("FAILED", "TIMED_OUT", "REJECTED"),
        stopped=("CANCELED", "INACTIVE"),
    )

    def key(self, handle: Handle) -> str:
        """Return the deployment id: names repeat."""
        return handle["id"]

    def submit_call(self, request: Mapping[str, Any]) -> Call:
        """CreateDeployment; the token makes a call that is sent twice one deployment (8 hours)."""
        return Call("create_deployment", {**request, "clientToken": request["deploymentName"]})

    def submitted(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> Handle:
        """Deployment id, name and device."""
        return {
            "name": request["deploymentName"],
            "id": response["deploymentId"],
            "thing": _thing(request["targetArn"]),
        }

    def describe_calls(self, handle: Handle) -> Sequence[Call]:
        """GetDeployment, and what the device has in effect."""
        return [
            Call("get_deployment", {"deploymentId": handle["id"]}),
            self.job_list.call(handle["thing"], None),
        ]

    def described(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        """Read the deployment's end where it was cancelled or replaced, else the device's word."""
        deployment, *pages = responses
        reason = None
        status = deployment["deploymentStatus"]
        effective = [each for page in pages for each in page["effectiveDeployments"]]
        ours = [each for each in effective if each["deploymentId"] == handle["id"]]
        if ours and status not in self.statuses.stopped:
            status, reason = ours[0]["coreDeviceExecutionStatus"], ours[0].get("reason") or None
        state = self.statuses.state(status, f"deployment {handle['id']}")
        if state is JobState.SUCCEEDED and not ours:
            # Greengrass is done with it, the device has not said so, or has something newer.
            state = JobState.RUNNING
            if deployment.get("isLatestForTarget") is False:
                status, state = "INACTIVE", JobState.STOPPED
        if state is JobState.STOPPED and reason is None:
            reason = "it was cancelled, or a newer deployment to the same device replaced it"
        name = deployment.get("deploymentName") or handle["name"]
        return JobDescription(
            handle={**handle, "name": name}, status=status, state=state, reason=reason,
            retryable=status == "TIMED_OUT",
            detail=deployment,
        )  # fmt: skip

    def stop_call(self, handle: Handle) -> Call:
        """CancelDeployment: devices that have not started keep what they have."""
        return Call("cancel_deployment", {"deploymentId": handle["id"]})

    def may_be_our_stop(self, description: JobDescription) -> bool:
        """Tell whether it was cancelled: INACTIVE is one that a newer deployment replaced."""
        return description.status == "CANCELED"

    def search(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return name and target: Greengrass lets names repeat."""
        return {"name": request["deploymentName"], "target": request["targetArn"]}

    def find_calls(self, intent: Intent) -> Sequence[Call]:
        """ListDeployments of the target, all that ever were."""
        filters = {"targetArn": intent.search["target"], "historyFilter": "ALL"}
        return [Call("list_deployments", filters, token="nextToken")]

    def found(self, intent: Intent, responses: Iterable[Mapping[str, Any]]) -> Iterator[Handle]:
        """Yield the deployments of our name among the target's."""
        for page in responses:
            for each in page["deployments"]:
                if each.get("deploymentName") == intent.search["name"]:
                    yield {
                        "name": each["deploymentName"],
                        "id": each["deploymentId"],
                        "thing": _thing(each["targetArn"]),
                    }

    def requested(self, description: JobDescription) -> Mapping[str, Any]:
        """Return target and components."""
        return {name: description.detail.get(name) for name in ("targetArn", "components")}


def _thing(target_arn: str) -> str:
    return target_arn.rpartition("/")[2]


class EdgeInferenceHook(BaseHook):
    """A device's Open Inference Protocol v2 API.

    :param edge_conn_id: connection of type `model_delivery_edge`: host, port, schema (http or
        https) and the device's API token as password.
    """

    conn_name_attr = "edge_conn_id"
    default_conn_name = "model_delivery_edge_default"
    conn_type = "model_delivery_edge"
    hook_name = "Model delivery edge device"

    def __init__(self, edge_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.edge_conn_id = edge_conn_id

    def get_conn(self) -> "httpx.Client":
        """Return an HTTP client of the device; the caller closes it."""
        import httpx

        connection = self.get_connection(self.edge_conn_id)
        scheme = connection.schema or "http"
        return httpx.Client(
            base_url=f"{scheme}://{connection.host}:{connection.port}",
            headers={"Authorization": f"Bearer {connection.password}"},
            timeout=httpx.Timeout(30.0, connect=5.0),
        )

    def thing_name(self) -> str | None:
        """Return the name under which the device is registered, as it says itself."""
        return self._call("GET", "/v2").get("thing")

    def metadata(self, model: str) -> dict[str, Any]:
        """Return the model's metadata, with the digest of the bundle that is running."""
        return self._call("GET", f"/v2/models/{model}")

    def infer(self, model: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run one inference request of the protocol."""
        return self._call("POST", f"/v2/models/{model}/infer", request)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the device for its server metadata."""
        try:
            server = self._call("GET", "/v2")
        except EdgeError as error:
            return False, str(error)
        return True, f"{server['name']} {server['version']}"

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        import httpx

        try:
            with self.get_conn() as client:
                answer = client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise EdgeError(
                f"device of connection {self.edge_conn_id!r} did not answer {method} {path} "
                f"({type(error).__name__}): check its host, port and that its agent runs"
            ) from error
        if answer.is_error:
            raise EdgeError(f"device refused {method} {path}: {answer.status_code} {answer.text}")
        return dict(answer.json())
