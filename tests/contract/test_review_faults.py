"""Human review when something fails: storage away, a webhook that is slow to take, a kill."""

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from model_delivery_localcloud.review.webhook import Webhook
from model_delivery_localcloud.store.review_tables import HumanLoop, WebhookEvent

from stack.credentials import ACCOUNT, load_or_create
from stack.localcloud import LocalCloud
from stack.object_store import object_store
from stack.ports import LOOPBACK, free_ports
from tests.contract.review_world import PASSWORD, Flow, flow_request, make_flow, task_ui, workteam
from tests.local_cloud import Cloud, Store

SEVEN = {"digit": {"label": "7"}}
SECRET = "a-webhook-secret-of-32-characters"


@contextmanager
def silence(port: int) -> Iterator[threading.Event]:
    """Take connections on a port and answer nothing; the event says that somebody has called."""
    called, over = threading.Event(), threading.Event()
    with socket.create_server((LOOPBACK, port)) as listener:
        listener.settimeout(0.1)

        def listen() -> None:
            with ExitStack() as stack:
                while not over.is_set():
                    with suppress(TimeoutError):
                        stack.enter_context(listener.accept()[0])
                        called.set()

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield called
        finally:
            over.set()
            thread.join()


class Receiver:
    """A webhook's receiver, which refuses the first delivery."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.signatures.append(self.headers["X-Localcloud-Signature"])
                self.send_response(500 if len(receiver.bodies) == 1 else 204)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self.server.server_port}/hook"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    built = Receiver()
    thread = threading.Thread(target=built.server.serve_forever)
    thread.start()
    yield built
    built.server.shutdown()
    thread.join()
    built.server.server_close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Any]:
    """Start a cloud of this module's own, whose object store can be taken away."""
    home = tmp_path_factory.mktemp("review-faults")
    port, store_port = free_ports(2)
    store = Store(store_port, load_or_create(home / "secrets.json"))
    local = LocalCloud(home / "localcloud", store.credentials, port, store_port)
    local.env.update(
        LOCALCLOUD_REVIEW_UNDO_SECONDS="0",
        LOCALCLOUD_REVIEW_MOST_TASKS="5",
        LOCALCLOUD_REVIEW_WEBHOOK_URL=receiver.url,
        LOCALCLOUD_REVIEW_WEBHOOK_SECRET=SECRET,
    )
    local.prepare()

    @contextmanager
    def storage() -> Iterator[None]:
        with object_store(home, store.credentials, store_port):
            yield

    with local.api(), local.worker("--concurrency", "1"):
        yield Cloud(local, store), storage


def answered(flow: Flow, loop: str) -> None:
    with flow.reviewer() as one:
        item = one.take(flow.id)
        assert item["name"] == loop
        one.call(flow.id, "answer", loop=item["loop"], answer=SEVEN)


def test_a_loop_is_completed_only_once_its_object_is_there(own: Any, receiver: Receiver) -> None:
    cloud, storage = own
    with storage():
        flow = make_flow(cloud)
        loop = flow.start()
    # The store is away now.
    answered(flow, loop)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        assert flow.status(loop) == "InProgress"
        time.sleep(0.2)
    with storage():
        output = flow.wait(loop, seconds=60)["HumanLoopOutput"]
        assert flow.output(loop)["humanAnswers"][0]["answerContent"] == SEVEN
    deadline = time.monotonic() + 20
    while len(receiver.bodies) < 2:
        assert time.monotonic() < deadline, "the webhook is called again after a refusal"
        time.sleep(0.1)
    first, second = receiver.bodies[:2]
    assert first == second
    event = json.loads(second)
    assert event["detail-type"] == "SageMaker A2I HumanLoop Status Change"
    assert event["detail"]["humanLoopName"] == loop
    assert event["detail"]["humanLoopStatus"] == "Completed"
    assert event["detail"]["humanLoopOutput"] == {"outputS3Uri": output["OutputS3Uri"]}
    expected = hmac.digest(SECRET.encode(), second, hashlib.sha256).hex()
    assert receiver.signatures[1] == f"sha256={expected}"


def test_a_receiver_that_speaks_no_http_has_not_taken_an_event() -> None:
    loop = HumanLoop(
        account=ACCOUNT, region="eu-west-1", name="one", flow_name="flow", created_at=0,
        failure_code="", failure_reason="", output_uri="",
    )  # fmt: skip
    event = WebhookEvent(id="e", body={"status": "Completed"}, created_at=0)
    with socket.create_server((LOOPBACK, 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        webhook = Webhook(f"http://{LOOPBACK}:{listener.getsockname()[1]}/hook", SECRET)
        assert webhook.post(event, loop) is False
        thread.join()


def test_what_a_killed_worker_was_writing_is_written_soon(tmp_path: Path) -> None:
    port, store_port = free_ports(2)
    store = Store(store_port, load_or_create(tmp_path / "secrets.json"))
    local = LocalCloud(tmp_path / "localcloud", store.credentials, port, store_port)
    local.env["LOCALCLOUD_REVIEW_UNDO_SECONDS"] = "0"
    local.prepare()
    worker = local.worker("--concurrency", "1")
    with local.api(), worker:
        with object_store(tmp_path, store.credentials, store_port):
            flow = make_flow(Cloud(local, store))
            loop = flow.start()
        with silence(store_port) as called:
            answered(flow, loop)
            assert called.wait(20), "the worker has claimed the output and begun to write it"
            worker.kill()
        with object_store(tmp_path, store.credentials, store_port), worker:
            flow.wait(loop, seconds=30)
            assert len(flow.output(loop)["humanAnswers"]) == 1


def test_our_own_setting_allows_more_than_three_answers(own: Any) -> None:
    cloud, storage = own
    with storage():
        flow = make_flow(cloud, config={"TaskCount": 5})
        loop = flow.start()
        for _ in range(5):
            answered(flow, loop)
        assert len(flow.output(loop)["humanAnswers"]) == 5
        team, _group = workteam(cloud)
        client = cloud.client("sagemaker")
        request = flow_request(cloud, team, task_ui(cloud), config={"TaskCount": 6})
        with pytest.raises(client.exceptions.ClientError, match="less than or equal to 5"):
            client.create_flow_definition(**request)


def test_an_object_is_shown_only_where_it_is_an_image(own: Any) -> None:
    cloud, storage = own
    with storage():
        flow = make_flow(cloud)
        s3 = cloud.store.client()
        s3.put_object(Bucket="model-delivery", Key="evil.png", Body=b"<script>alert(1)</script>")
        flow.start(taskObject="s3://model-delivery/evil.png", confidence=0.1)
        flow.start(taskObject="s3://model-delivery/gone.png", confidence=0.2)
        flow.start(taskObject="file:///etc/passwd", confidence=0.3)
        with flow.reviewer() as one:
            first, second, third = one.call(flow.id, "next", count=3)["items"]
            page = one.http.get(first["view"]["image"])
            assert page.status_code == 415
            assert page.headers["content-type"].startswith("text/plain")
            assert "sandbox" in page.headers["content-security-policy"]
            assert one.http.get(second["view"]["image"]).status_code == 404
            assert third["view"]["kind"] == "broken"
            assert "s3://bucket/key" in third["view"]["problem"]
            made_up = one.http.get(first["view"]["image"] + "x")
            assert made_up.status_code == 404


def test_a_password_of_an_earlier_version_is_hashed_anew(own: Any) -> None:
    import base64
    import sqlite3

    cloud, _storage = own
    cloud.run("user", "add", "old", "--role", "reviewer", secret=PASSWORD)
    salt = b"0123456789abcdef"
    digest = hashlib.scrypt(PASSWORD.encode(), salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    parts = [base64.b64encode(part).decode() for part in (salt, digest)]
    path = Path(cloud.home) / "localcloud.db"
    with sqlite3.connect(path) as store:
        store.execute(
            "UPDATE users SET password_hash = ? WHERE name = 'old'",
            ("$".join(("scrypt", str(2**15), "8", "1", *parts)),),
        )
    from stack.review_desk import Reviewer

    with Reviewer(cloud.url, "old", PASSWORD):
        pass
    with sqlite3.connect(path) as store:
        (kept,) = store.execute("SELECT password_hash FROM users WHERE name = 'old'").fetchone()
    store.close()
    assert kept.startswith("$argon2id$")
