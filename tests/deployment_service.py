"""Greengrass deployments over real HTTP: what one device says, and what the service says."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

THING = "edge-1"
_DEPLOYMENT = "/greengrass/v2/deployments/{id}"
_EFFECTIVE = "/greengrass/v2/coreDevices/{thing}/effectiveDeployments"


@dataclass
class DeploymentService:
    """Deployments by id: the service's status, and the device's or None."""

    statuses: dict[str, str] = field(default_factory=dict)
    device: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    cancelled: list[str] = field(default_factory=list)
    # How many looks at a deployment are still refused.
    throttled: int = 0
    # A device is a core device from its first report on.
    is_known: bool = True
    url: str = ""

    async def start(self) -> web.AppRunner:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_get(_DEPLOYMENT, self._get)
        app.router.add_get(_EFFECTIVE, self._list)
        app.router.add_post(f"{_DEPLOYMENT}/cancel", self._cancel)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _get(self, request: web.Request) -> web.Response:
        self.asked["GetDeployment"] += 1
        if self.throttled:
            self.throttled -= 1
            headers = {"x-amzn-ErrorType": "ThrottlingException"}
            return web.json_response({"message": "slow"}, status=429, headers=headers)
        identifier = request.match_info["id"]
        status = self.statuses[identifier]
        return web.json_response({"deploymentId": identifier, "deploymentStatus": status})

    async def _cancel(self, request: web.Request) -> web.Response:
        identifier = request.match_info["id"]
        self.cancelled.append(identifier)
        self.statuses[identifier] = "CANCELED"
        return web.json_response({"message": "cancelled"})

    async def _list(self, request: web.Request) -> web.Response:
        assert request.match_info["thing"] == THING
        self.asked["ListEffectiveDeployments"] += 1
        found = [
            {"deploymentId": identifier, "coreDeviceExecutionStatus": status}
            for identifier, status in self.device.items()
        ]
        if not self.is_known:
            headers = {"x-amzn-ErrorType": "ResourceNotFoundException"}
            return web.json_response({"message": THING}, status=404, headers=headers)
        size, start = int(request.query["maxResults"]), int(request.query.get("nextToken", 0))
        page: dict[str, Any] = {"effectiveDeployments": found[start : start + size]}
        if start + size < len(found):
            page["nextToken"] = str(start + size)
        return web.json_response(page)

    def airflow_connection(self) -> dict[str, Any]:
        """Return the connection that leads here."""
        return {
            "conn_type": "aws",
            "login": "AKIAPOLLTEST00000002",
            "password": "the-secret-of-the-poll-tests",
            "extra": {
                "region_name": "us-east-1",
                "service_config": {"greengrassv2": {"endpoint_url": self.url}},
            },
        }
