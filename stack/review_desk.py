"""A reviewer without a browser: signs in to the portal and uses the calls that its pages use."""

import re
from types import TracebackType
from typing import Any

import httpx

from stack.processes import StackError


class Reviewer:
    """One signed-in person.

    :param url: localcloud's URL.
    :raises StackError: where the portal does not let them in.
    """

    def __init__(self, url: str, name: str, password: str) -> None:
        self.name = name
        self.http = httpx.Client(base_url=url, timeout=30)
        found = re.search(r'name="csrf" value="([^"]+)"', self.http.get("/sign-in").text)
        if found is None:
            raise StackError(f"{url} shows no sign-in")
        form = {"csrf": found[1], "name": name, "password": password}
        self.http.post("/sign-in", data=form)
        answer = self.http.get("/review/api/session")
        if answer.is_error:
            raise StackError(f"{name} cannot sign in: {answer.text}")
        self.csrf = answer.json()["csrf"]

    def __enter__(self) -> "Reviewer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def queues(self) -> list[dict[str, Any]]:
        """Return this person's queues, with counts."""
        return list(self.http.get("/review/api/queues").raise_for_status().json()["queues"])

    def queue(self, name: str) -> dict[str, Any] | None:
        """Return the first queue whose flow definition has a name."""
        return next((each for each in self.queues() if each["name"] == name), None)

    def post(self, flow: str, call: str, **body: Any) -> httpx.Response:
        """Make one call of a queue, by the flow's id."""
        path = f"/review/api/{flow}/{call}"
        return self.http.post(path, json=body, headers={"X-CSRF-Token": self.csrf})

    def call(self, flow: str, call: str, **body: Any) -> dict[str, Any]:
        """Make one call that has to succeed; StackError says what the portal answered."""
        answer = self.post(flow, call, **body)
        if answer.is_error:
            raise StackError(f"{self.name}: {call}: {answer.status_code} {answer.text}")
        return dict(answer.json())

    def take(self, flow: str) -> dict[str, Any]:
        """Take the next item, which has to be there."""
        items = self.call(flow, "next")["items"]
        if not items:
            raise StackError(f"{self.name}: nothing waits in queue {flow}")
        return dict(items[0])
