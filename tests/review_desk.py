"""A reviewer without a browser: signs in to the portal and uses the calls that its pages use."""

import re
from types import TracebackType
from typing import Any

import httpx


class Reviewer:
    """One signed-in person.

    :param url: localcloud's URL.
    """

    def __init__(self, url: str, name: str, password: str) -> None:
        self.name = name
        self.http = httpx.Client(base_url=url, timeout=30)
        page = self.http.get("/sign-in")
        found = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert found, page.text
        form = {"csrf": found[1], "name": name, "password": password}
        answer = self.http.post("/sign-in", data=form)
        assert answer.status_code == 303, answer.text
        self.csrf = self.http.get("/review/api/session").json()["csrf"]

    def __enter__(self) -> "Reviewer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def queues(self) -> dict[str, dict[str, Any]]:
        """Return this person's queues by the flow definition's name."""
        found = self.http.get("/review/api/queues").json()["queues"]
        return {each["name"]: each for each in found}

    def post(self, flow: str, call: str, **body: Any) -> httpx.Response:
        """Make one call of a queue, by the flow's id."""
        path = f"/review/api/{flow}/{call}"
        return self.http.post(path, json=body, headers={"X-CSRF-Token": self.csrf})

    def call(self, flow: str, call: str, **body: Any) -> dict[str, Any]:
        """Make one call that has to succeed."""
        answer = self.post(flow, call, **body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def take(self, flow: str) -> dict[str, Any]:
        """Take the next item, which has to be there."""
        items = self.call(flow, "next")["items"]
        assert items, "the queue is empty"
        return dict(items[0])
