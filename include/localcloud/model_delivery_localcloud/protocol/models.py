"""The service models, read from the installed botocore when they are first needed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

import botocore.session
from botocore.model import OperationModel, ServiceModel

JSON_RPC = "json"
REST_JSON = "rest-json"
QUERY = "query"


@dataclass(frozen=True)
class Route:
    """An operation's method and URI template, compiled."""

    operation: str
    method: str
    pattern: re.Pattern[str]
    literal_length: int


class Service:
    """One AWS service: its model, and how a request finds its operation."""

    def __init__(self, model: ServiceModel) -> None:
        self.model = model
        self.name: str = model.service_name
        self.protocol: str = model.metadata["protocol"]
        self.signing_name: str = model.signing_name
        self.target_prefix: str = model.metadata.get("targetPrefix", "")
        self._routes = _routes(model) if self.protocol == REST_JSON else []

    def operation(self, name: str) -> OperationModel | None:
        """Return the operation called `name`, or None if the service has none."""
        if name not in self.model.operation_names:
            return None
        return self.model.operation_model(name)

    def match(self, method: str, raw_path: str) -> tuple[OperationModel, dict[str, str]] | None:
        """Find the operation for a path, most literal template first, and its URI labels."""
        for route in self._routes:
            found = route.pattern.fullmatch(raw_path) if route.method == method else None
            if found:
                labels = {_label(key): unquote(text) for key, text in found.groupdict().items()}
                return self.model.operation_model(route.operation), labels
        return None


@cache
def load_service(name: str) -> Service:
    """Return the service `name` as botocore spells it, e.g. `greengrassv2`."""
    return Service(botocore.session.get_session().get_service_model(name))


def with_maxima(service: Service, maxima: Mapping[str, int]) -> Service:
    """Return the service with other maxima of some shapes; unchanged where it has none of them."""
    model = service.model
    ours = {name: limit for name, limit in maxima.items() if name in model.shape_names}
    if not ours:
        return service
    loader = botocore.session.get_session().get_component("data_loader")
    description = loader.load_service_model(model.service_name, "service-2")
    shapes = dict(description["shapes"])
    for name, limit in ours.items():
        shapes[name] = {**shapes[name], "max": limit}
    return Service(ServiceModel({**description, "shapes": shapes}, model.service_name))


def _routes(model: ServiceModel) -> list[Route]:
    routes = [_route(name, model.operation_model(name).http) for name in model.operation_names]
    return sorted(routes, key=lambda route: -route.literal_length)


def _route(operation: str, http: dict[str, Any]) -> Route:
    template = http["requestUri"].partition("?")[0]
    pattern = ""
    literal_length = 0
    for part in re.split(r"(\{[^}]+\})", template):
        if part.startswith("{"):
            greedy = part.endswith("+}")
            name = part.strip("{}").removesuffix("+")
            pattern += f"(?P<{_group(name)}>{'.+' if greedy else '[^/]+'})"
        else:
            pattern += re.escape(part)
            literal_length += len(part)
    return Route(operation, http["method"], re.compile(pattern), literal_length)


def _group(label: str) -> str:
    return "label_" + label.replace("-", "__")


def _label(group: str) -> str:
    return group.removeprefix("label_").replace("__", "-")
