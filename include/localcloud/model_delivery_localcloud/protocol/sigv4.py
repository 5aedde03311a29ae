"""Server side of AWS Signature Version 4, for signatures in the Authorization header.

Follows "Create a signed AWS API request" of the IAM user guide. Presigned URLs (signature in the
query) are refused: no operation here needs one.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from urllib.parse import quote, unquote

from model_delivery_localcloud.errors import SignatureFault, SignatureRefused
from model_delivery_localcloud.protocol.messages import Request

ALGORITHM = "AWS4-HMAC-SHA256"
ALLOWED_SKEW = timedelta(minutes=5)
_PARTS = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")


@dataclass(frozen=True)
class Credential:
    """The credential scope of a signature: which key signed, for what day, region, service."""

    access_key_id: str
    date: str
    region: str
    service: str

    @property
    def scope(self) -> str:
        """The scope as it enters the string to sign."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True)
class Authorization:
    """The parsed Authorization header."""

    credential: Credential
    signed_headers: tuple[str, ...]
    signature: str


def verify(
    request: Request,
    signing_name: str,
    secret_of: Callable[[str], str | None],
    now: datetime,
) -> Credential:
    """Check the request's signature and return its credential scope.

    `signing_name` is the service the request was routed to, `secret_of` gives an access key's
    secret or None. Raises SignatureRefused with the fault.
    """
    authorization = _parse_authorization(request)
    credential = authorization.credential
    secret = secret_of(credential.access_key_id)
    if secret is None or request.header("x-amz-security-token") is not None:
        # We issue no session tokens, so a request that carries one is nobody's we know.
        _refuse(
            SignatureFault.UNKNOWN_KEY, "The security token included in the request is invalid."
        )
    timestamp = _check_time(request, credential, now)
    if credential.service != signing_name:
        _refuse(
            SignatureFault.MISMATCH,
            f"Credential should be scoped to correct service: '{signing_name}'.",
        )
    _check_signed_headers(request, authorization.signed_headers)
    payload_hash = _check_payload(request)
    expected = _signature(request, authorization, payload_hash, timestamp, secret)
    if not hmac.compare_digest(expected, authorization.signature):
        _refuse(
            SignatureFault.MISMATCH,
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method. Consult the service "
            "documentation for details.",
        )
    return credential


def _refuse(fault: SignatureFault, message: str) -> NoReturn:
    raise SignatureRefused(fault, message)


def _parse_authorization(request: Request) -> Authorization:
    header = request.header("authorization")
    if header is None:
        if "X-Amz-Signature=" in request.query:
            _refuse(
                SignatureFault.INCOMPLETE,
                "Presigned URLs are not accepted: sign with the Authorization header.",
            )
        _refuse(SignatureFault.MISSING, "Missing Authentication Token")
    algorithm, _, rest = header.partition(" ")
    parts = dict(_PARTS.findall(rest))
    scope = parts.get("Credential", "").split("/")
    complete = {"Credential", "SignedHeaders", "Signature"} <= parts.keys()
    if algorithm != ALGORITHM or not complete or len(scope) != 5 or scope[4] != "aws4_request":
        _refuse(
            SignatureFault.INCOMPLETE,
            f"Authorization header requires '{ALGORITHM}' with 'Credential' (a full scope), "
            "'SignedHeaders' and 'Signature' parameters.",
        )
    return Authorization(
        Credential(*scope[:4]), tuple(parts["SignedHeaders"].split(";")), parts["Signature"]
    )


def _check_time(request: Request, credential: Credential, now: datetime) -> str:
    timestamp = request.header("x-amz-date") or ""
    try:
        signed_at = datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        _refuse(
            SignatureFault.INCOMPLETE,
            "Authorization header requires existence of an 'X-Amz-Date' header like "
            "20260131T235959Z.",
        )
    if abs(now - signed_at) > ALLOWED_SKEW:
        _refuse(
            SignatureFault.MISMATCH,
            f"Signature expired: {timestamp} is more than 5 minutes from the server's time "
            f"{now:%Y%m%dT%H%M%SZ}.",
        )
    if timestamp[:8] != credential.date:
        _refuse(
            SignatureFault.MISMATCH,
            f"Date in Credential scope does not match YYYYMMDD from X-Amz-Date: "
            f"'{credential.date}' != '{timestamp[:8]}'.",
        )
    return timestamp


def _check_signed_headers(request: Request, signed: tuple[str, ...]) -> None:
    needed = {"host"} | {name for name, _ in request.headers if name.startswith("x-amz-")}
    unsigned = sorted(needed - set(signed))
    if unsigned:
        _refuse(
            SignatureFault.MISMATCH,
            f"There were headers present in the request which were not signed: "
            f"{', '.join(unsigned)}",
        )


def _check_payload(request: Request) -> str:
    actual = hashlib.sha256(request.body).hexdigest()
    stated = request.header("x-amz-content-sha256")
    if stated is not None and not hmac.compare_digest(stated.encode(), actual.encode()):
        _refuse(
            SignatureFault.MISMATCH,
            "The value passed in x-amz-content-sha256 does not match the hash of the body.",
        )
    return actual


def _signature(
    request: Request,
    authorization: Authorization,
    payload_hash: str,
    timestamp: str,
    secret: str,
) -> str:
    canonical = "\n".join(
        (
            request.method,
            quote(_normal_path(request.raw_path), safe="/-_.~"),
            _canonical_query(request.query),
            *(f"{name}:{_header_value(request, name)}" for name in authorization.signed_headers),
            "",
            ";".join(authorization.signed_headers),
            payload_hash,
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    credential = authorization.credential
    to_sign = "\n".join((ALGORITHM, timestamp, credential.scope, digest))
    key = f"AWS4{secret}".encode()
    for part in (credential.date, credential.region, credential.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _normal_path(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    slash = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + slash


def _canonical_query(query: str) -> str:
    pairs = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        pairs.append(tuple(quote(unquote(text), safe="-_.~") for text in (name, value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _header_value(request: Request, name: str) -> str:
    values = [value for key, value in request.headers if key == name]
    return ",".join(" ".join(value.split()) for value in values)
