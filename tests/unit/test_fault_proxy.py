"""The proxy of the fault tests: what a client gets of each effect, before and after the deed."""

import http.client
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.faults.proxy import Effect, FaultProxy, refusal

DEEDS: list[str] = []


class _Service(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        DEEDS.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"made")


@pytest.fixture
def upstream() -> Iterator[int]:
    DEEDS.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/x")
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize(("moment", "deeds"), [("before", []), ("after", ["/x"])])
def test_a_reset_answers_nothing(upstream: int, moment: str, deeds: list[str]) -> None:
    with FaultProxy(upstream) as proxy:
        proxy.rule = lambda call: Effect(reset=True) if call.moment == moment else None
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(proxy.port)
    assert deeds == DEEDS


@pytest.mark.parametrize(("moment", "deeds"), [("before", []), ("after", ["/x"])])
def test_an_answer_takes_the_place_of_the_services(
    upstream: int, moment: str, deeds: list[str]
) -> None:
    with FaultProxy(upstream) as proxy:
        effect = Effect(answer=refusal(500, "InternalFailure"))
        proxy.rule = lambda call: effect if call.moment == moment else None
        assert ask(proxy.port)[0] == 500
    assert deeds == DEEDS


def test_without_an_effect_the_service_answers(upstream: int) -> None:
    with FaultProxy(upstream) as proxy:
        assert ask(proxy.port) == (200, b"made")
