"""SigV4 as AWS enforces it, tried with the real client and with requests altered on the way."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from aiobotocore.session import get_session
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from stack.credentials import ACCOUNT

SAGEMAKER_LIST = {
    "X-Amz-Target": "SageMaker.ListCompilationJobs",
    "Content-Type": "application/x-amz-json-1.1",
}


def signed(cloud: Any, service: str = "sagemaker", signer: Any = SigV4Auth, **options: Any) -> Any:
    request = AWSRequest(
        method=options.get("method", "POST"),
        url=cloud.url + options.get("path", "/"),
        data=options.get("data", "{}"),
        headers=options.get("headers", SAGEMAKER_LIST),
    )
    credentials = Credentials(cloud.access_key_id, cloud.secret, options.get("token"))
    signer(credentials, service, "eu-west-1").add_auth(request)
    return request.prepare()


def send(prepared: Any, **changes: Any) -> httpx.Response:
    body = changes.get("body", prepared.body) or b""
    headers = {**prepared.headers, **changes.get("headers", {})}
    headers["Content-Length"] = str(len(body))
    return httpx.request(prepared.method, prepared.url, content=body, headers=headers)


def test_caller_identity_is_the_account_of_the_key(cloud: Any) -> None:
    identity = cloud.client("sts").get_caller_identity()
    assert identity["Account"] == ACCOUNT
    assert identity["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/{cloud.access_key_id}"
    assert identity["ResponseMetadata"]["RequestId"]


def test_caller_identity_over_aiobotocore(cloud: Any) -> None:
    async def ask() -> dict[str, Any]:
        async with get_session().create_client(
            "sts",
            endpoint_url=cloud.url,
            region_name="eu-west-1",
            aws_access_key_id=cloud.access_key_id,
            aws_secret_access_key=cloud.secret,
        ) as client:
            return dict(await client.get_caller_identity())

    assert asyncio.run(ask())["Account"] == ACCOUNT


@pytest.mark.parametrize(
    ("service", "call", "unknown", "wrong"),
    [
        ("sts", "get_caller_identity", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        (
            "sagemaker",
            "list_compilation_jobs",
            "UnrecognizedClientException",
            "InvalidSignatureException",
        ),
    ],
)
def test_unknown_key_and_wrong_secret(
    cloud: Any, service: str, call: str, unknown: str, wrong: str
) -> None:
    stranger = cloud.client(service, aws_access_key_id="AKIANOBODYKNOWSTHIS0")
    with pytest.raises(ClientError) as refused:
        getattr(stranger, call)()
    assert refused.value.response["Error"]["Code"] == unknown
    thief = cloud.client(service, aws_secret_access_key="not-the-secret-of-this-key")
    with pytest.raises(ClientError) as refused:
        getattr(thief, call)()
    assert refused.value.response["Error"]["Code"] == wrong


def test_a_good_signature_made_by_hand_passes(cloud: Any) -> None:
    assert send(signed(cloud)).status_code == 200


def test_unsigned_is_refused_in_each_protocol(cloud: Any) -> None:
    answer = httpx.post(cloud.url, content=b"{}", headers=SAGEMAKER_LIST)
    assert answer.json()["__type"] == "MissingAuthenticationTokenException"
    answer = httpx.post(cloud.url, data={"Action": "GetCallerIdentity", "Version": "2011-06-15"})
    assert answer.status_code == 403
    assert "<Code>MissingAuthenticationToken</Code>" in answer.text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"body": b'{"MaxResults": 1}'}, "does not match the signature"),
        ({"headers": {"X-Amz-Target": "SageMaker.ListTags"}}, "does not match the signature"),
        ({"headers": {"X-Amz-Meta-Added": "later"}}, "not signed: x-amz-meta-added"),
    ],
    ids=["body", "signed header", "unsigned x-amz header"],
)
def test_what_was_altered_after_signing_is_refused(
    cloud: Any, changes: dict[str, Any], says: str
) -> None:
    answer = send(signed(cloud), **changes)
    assert answer.status_code == 400
    assert answer.json()["__type"] == "InvalidSignatureException"
    assert says in answer.json()["message"]


def test_the_scope_must_name_the_service(cloud: Any) -> None:
    answer = send(signed(cloud, service="personalize"))
    assert answer.json()["__type"] == "InvalidSignatureException"
    assert "correct service: 'sagemaker'" in answer.json()["message"]


def test_session_tokens_are_not_ours(cloud: Any) -> None:
    answer = send(signed(cloud, token="somebody-else-issued-this"))
    assert answer.json()["__type"] == "UnrecognizedClientException"


def test_presigned_is_refused(cloud: Any) -> None:
    prepared = signed(cloud, signer=SigV4QueryAuth, headers={})
    answer = httpx.post(prepared.url, content=b"{}", headers=SAGEMAKER_LIST)
    assert answer.json()["__type"] == "IncompleteSignatureException"
    assert "Presigned" in answer.json()["message"]


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_clock_six_minutes_off_is_refused(
    cloud: Any, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = datetime.now(UTC) + timedelta(minutes=minutes)
    # The client's clock, not the server's: botocore offers no other way to set it.
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: shifted)
    answer = send(signed(cloud))
    assert answer.json()["__type"] == "InvalidSignatureException"
    assert "Signature expired" in answer.json()["message"]


def test_a_key_bound_to_regions_works_only_there(cloud: Any) -> None:
    key = {"aws_access_key_id": "AKIAONLYINFRANKFURT0", "aws_secret_access_key": "f" * 30}
    cloud.run(
        "access-key", "add", "--id", key["aws_access_key_id"], "--account", "210987654321",
        "--region", "eu-central-1", secret=key["aws_secret_access_key"],
    )  # fmt: skip
    there = cloud.client("sts", region_name="eu-central-1", **key)
    assert there.get_caller_identity()["Account"] == "210987654321"
    with pytest.raises(ClientError, match="valid region"):
        cloud.client("sts", region_name="eu-west-1", **key).get_caller_identity()


def test_unbuilt_and_unknown_operations_are_named(cloud: Any) -> None:
    with pytest.raises(ClientError, match="sagemaker ListModels is not built") as refused:
        cloud.client("sagemaker").list_models()
    assert refused.value.response["Error"]["Code"] == "UnknownOperationException"
    answer = send(signed(cloud, headers={**SAGEMAKER_LIST, "X-Amz-Target": "SageMaker.Fly"}))
    assert answer.json()["__type"] == "UnknownOperationException"
    assert "Fly" in answer.json()["message"]


def test_secrets_are_not_in_the_store_in_clear(cloud: Any) -> None:
    stored = b"".join(path.read_bytes() for path in cloud.home.glob("localcloud.db*"))
    assert cloud.access_key_id.encode() in stored
    assert cloud.secret.encode() not in stored
