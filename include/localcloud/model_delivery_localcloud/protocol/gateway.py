"""One call from wire to wire: route, verify, parse, validate, run, check, answer.

Synchronous throughout (database, object store): the ASGI application runs it in a thread.
"""

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.model import OperationModel

from model_delivery_localcloud.errors import (
    LocalcloudError,
    ServiceError,
    SignatureFault,
    SignatureRefused,
)
from model_delivery_localcloud.protocol.messages import Call, Caller, Request, Response
from model_delivery_localcloud.protocol.models import (
    JSON_RPC,
    QUERY,
    REST_JSON,
    Service,
    load_service,
    with_maxima,
)
from model_delivery_localcloud.protocol.parse import parse_json_body, parse_query, parse_rest_json
from model_delivery_localcloud.protocol.serialise import serialise, serialise_error
from model_delivery_localcloud.protocol.sigv4 import verify
from model_delivery_localcloud.protocol.validate import validate
from model_delivery_localcloud.store.access_keys import KnownKey
from model_delivery_localcloud.store.database import BUSY, is_busy

log = logging.getLogger(__name__)

Handler = Callable[[Call], Mapping[str, Any]]
_INTERNAL = {REST_JSON: "InternalServerException"}
# Where a service has words of its own for what is wrong with a request, or with the server.
_OWN_WORDS = {
    "iot": {
        "ValidationException": "InvalidRequestException",
        "SerializationException": "InvalidRequestException",
        "InternalServerException": "InternalFailureException",
        "ServiceUnavailable": "ServiceUnavailableException",
    }
}
_AUTH_CODES = {
    SignatureFault.MISSING: ("MissingAuthenticationTokenException", "MissingAuthenticationToken"),
    SignatureFault.INCOMPLETE: ("IncompleteSignatureException", "IncompleteSignature"),
    SignatureFault.UNKNOWN_KEY: ("UnrecognizedClientException", "InvalidClientTokenId"),
    SignatureFault.MISMATCH: ("InvalidSignatureException", "SignatureDoesNotMatch"),
}


@dataclass(frozen=True)
class Routed:
    """A request whose service is known, and its operation if it has one."""

    service: Service
    operation_name: str
    operation: OperationModel | None
    labels: Mapping[str, str]
    form: Mapping[str, Any]


class Gateway:
    """Answers AWS requests with the given handlers.

    `handlers`: service name → operation name → handler. `find_key` gives an access key by id.
    `maxima`: shape name → a maximum of ours in place of the model's.
    """

    def __init__(
        self,
        handlers: Mapping[str, Mapping[str, Handler]],
        find_key: Callable[[str], KnownKey | None],
        maxima: Mapping[str, int] | None = None,
    ) -> None:
        self._handlers = handlers
        self._services = [with_maxima(load_service(name), maxima or {}) for name in handlers]
        self._find_key = find_key

    def caller(self, request: Request, service: str) -> Caller:
        """Return who signed a request as for `service`; raises SignatureRefused."""
        return self._verify(request, load_service(service))

    def handle(self, request: Request) -> Response:
        """Answer one request; every error becomes an answer in the service's own protocol."""
        request_id = str(uuid.uuid4())
        routed = self._route(request)
        service = routed.service
        try:
            operation, result = self._run(request, routed)
            return serialise(result, operation, service.protocol, request_id)
        except SignatureRefused as refused:
            error = _signature_error(refused, service)
        except ServiceError as refused:
            error = refused
        except Exception as problem:
            # The last resort of a server: logged with its request id, never shown in detail.
            log.exception(
                "%s %s failed (request %s)", service.name, routed.operation_name, request_id
            )
            error = _internal_error(problem, service, request_id)
        error.code = _OWN_WORDS.get(service.name, {}).get(error.code, error.code)
        return serialise_error(error, service.model, service.protocol, request_id)

    def _run(self, request: Request, routed: Routed) -> tuple[OperationModel, Mapping[str, Any]]:
        caller = self._verify(request, routed.service)
        handler = self._handlers[routed.service.name].get(routed.operation_name)
        if routed.operation is None or handler is None:
            raise _not_built(routed)
        params = _parse(request, routed, routed.operation)
        validate(params, routed.operation.input_shape)
        return routed.operation, handler(Call(caller, routed.operation_name, params))

    def _verify(self, request: Request, service: Service) -> Caller:
        keys: list[KnownKey] = []

        def secret_of(access_key_id: str) -> str | None:
            key = self._find_key(access_key_id)
            if key is None:
                return None
            keys.append(key)
            return key.secret

        scope = verify(request, service.signing_name, secret_of, datetime.now(UTC))
        key = keys[0]
        if key.regions and scope.region not in key.regions:
            regions = ", ".join(key.regions)
            raise SignatureRefused(
                SignatureFault.MISMATCH,
                f"Credential should be scoped to a valid region: this key's are {regions}.",
            )
        return Caller(key.account, scope.region, key.access_key_id)

    def _route(self, request: Request) -> Routed:
        target = request.header("x-amz-target")
        if target is not None:
            return self._route_target(target)
        if request.raw_path == "/":
            action, form = parse_query(request)
            service = self._of_protocol(QUERY)[0]
            return Routed(service, action or "no action", service.operation(action), {}, form)
        for service in self._of_protocol(REST_JSON):
            found = service.match(request.method, request.raw_path)
            if found:
                operation, labels = found
                return Routed(service, operation.name, operation, labels, {})
        service = self._of_protocol(REST_JSON)[0]
        return Routed(service, f"{request.method} {request.raw_path}", None, {}, {})

    def _route_target(self, target: str) -> Routed:
        prefix, _, name = target.rpartition(".")
        services = self._of_protocol(JSON_RPC)
        for service in services:
            if service.target_prefix == prefix:
                return Routed(service, name, service.operation(name), {}, {})
        return Routed(services[0], target, None, {}, {})

    def _of_protocol(self, protocol: str) -> list[Service]:
        return [service for service in self._services if service.protocol == protocol]


def checked_handlers(
    handlers: Mapping[str, Mapping[str, Handler]],
) -> Mapping[str, Mapping[str, Handler]]:
    """Return the handlers; raises LocalcloudError for an operation that no model knows."""
    for name, operations in handlers.items():
        unknown = operations.keys() - set(load_service(name).model.operation_names)
        if unknown:
            raise LocalcloudError(f"{name} has no operation {', '.join(sorted(unknown))}")
    return handlers


def _parse(request: Request, routed: Routed, operation: OperationModel) -> dict[str, Any]:
    if routed.service.protocol == JSON_RPC:
        return parse_json_body(request, operation)
    if routed.service.protocol == REST_JSON:
        return parse_rest_json(request, operation, routed.labels)
    return dict(routed.form)


def _signature_error(refused: SignatureRefused, service: Service) -> ServiceError:
    json_code, query_code = _AUTH_CODES[refused.fault]
    code = query_code if service.protocol == QUERY else json_code
    return ServiceError(code, str(refused), 400 if service.protocol == JSON_RPC else 403)


def _internal_error(problem: Exception, service: Service, request_id: str) -> ServiceError:
    if is_busy(problem):
        return ServiceError("ServiceUnavailable", f"{BUSY} (request {request_id})", 503)
    code = _INTERNAL.get(service.protocol, "InternalFailure")
    # Our own errors name the thing and the next step; others may hold anything.
    detail = str(problem) if isinstance(problem, LocalcloudError) else "see localcloud's log"
    return ServiceError(code, f"localcloud failed (request {request_id}): {detail}", 500)


def _not_built(routed: Routed) -> ServiceError:
    if routed.operation is None:
        return ServiceError(
            "UnknownOperationException",
            f"{routed.service.name} has no operation {routed.operation_name}.",
            404,
        )
    return ServiceError(
        "UnknownOperationException",
        f"{routed.service.name} {routed.operation_name} is not built in localcloud.",
        501,
    )
