"""The portal over HTTP: nothing without signing in, and what its pages say."""

import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stack.credentials import ACCOUNT
from stack.localcloud import PORTAL_USER


@pytest.fixture
def browser(cloud: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloud.url, timeout=20) as client:
        yield client


def token(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def sign_in(browser: httpx.Client, name: str, password: str, **changes: str) -> httpx.Response:
    form = {"csrf": token(browser.get("/sign-in")), "name": name, "password": password, **changes}
    return browser.post("/sign-in", data=form)


@pytest.mark.parametrize(
    "path", ["/", "/jobs/compilation", "/jobs/compilation/1/eu-west-1/x", "/devices"]
)
def test_every_page_asks_to_sign_in_first(browser: httpx.Client, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in?next=")


def test_a_person_signs_in_sees_the_jobs_and_signs_out(
    cloud: Any, browser: httpx.Client, job_request: Any
) -> None:
    request = job_request("s3://contract/models/never.tar.gz")
    cloud.client("sagemaker").create_compilation_job(**request)
    signed_in = sign_in(browser, PORTAL_USER, cloud.password, next="/devices")
    assert signed_in.status_code == 303
    assert signed_in.headers["location"] == "/devices"
    assert browser.get("/devices").status_code == 200
    listed = browser.get("/jobs/compilation")
    assert request["CompilationJobName"] in listed.text
    path = f"/jobs/compilation/{ACCOUNT}/eu-west-1/{request['CompilationJobName']}"
    page = browser.get(path)
    assert "STARTING" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert browser.get(path + "x").status_code == 404
    browser.post("/sign-out", data={"csrf": "made-up"})
    assert browser.get(path).status_code == 200
    browser.post("/sign-out", data={"csrf": token(page)})
    assert browser.get(path).status_code == 303


def test_a_wrong_password_or_form_token_is_refused(cloud: Any, browser: httpx.Client) -> None:
    assert sign_in(browser, PORTAL_USER, "wrong-password").status_code == 403
    assert sign_in(browser, PORTAL_USER, cloud.password, csrf="made-up").status_code == 403
    assert browser.get("/devices").status_code == 303


def test_nobody_is_sent_to_another_host(cloud: Any, browser: httpx.Client) -> None:
    for evil in ("//example.com/", "/\\example.com", "https://example.com/"):
        answer = sign_in(browser, PORTAL_USER, cloud.password, next=evil)
        assert answer.headers["location"] == "/"


def test_guessing_is_throttled(cloud: Any, browser: httpx.Client) -> None:
    name = f"eve-{uuid4().hex[:6]}"
    cloud.run("user", "add", name, secret="a-password-of-eves")
    for _ in range(5):
        assert sign_in(browser, name, "guess").status_code == 403
    answer = sign_in(browser, name, "a-password-of-eves")
    assert answer.status_code == 429
    assert "five minutes" in answer.text


def test_who_signs_out_is_out_wherever_the_cookie_was_copied(
    cloud: Any, browser: httpx.Client
) -> None:
    sign_in(browser, PORTAL_USER, cloud.password)
    page = browser.get("/devices")
    with httpx.Client(base_url=cloud.url, cookies=dict(browser.cookies)) as copied:
        assert copied.get("/devices").status_code == 200
        large = browser.post("/sign-out", data={"csrf": token(page), "x": "x" * 20_000})
        assert large.status_code == 413
        browser.post("/sign-out", data={"csrf": token(page)})
        assert copied.get("/devices").status_code == 303
        assert copied.get("/review/api/session").status_code == 401


def test_a_new_password_and_a_removal_sign_a_person_out(cloud: Any, browser: httpx.Client) -> None:
    name = f"ann-{uuid4().hex[:6]}"
    cloud.run("user", "add", name, "--role", "reviewer", secret="the-first-password")
    sign_in(browser, name, "the-first-password")
    assert browser.get("/review").status_code == 200
    cloud.run("user", "add", name, "--role", "reviewer", secret="another-password")
    wait_until_out(browser)
    sign_in(browser, name, "another-password")
    assert browser.get("/review").status_code == 200
    cloud.run("user", "remove", name)
    wait_until_out(browser)
    assert sign_in(browser, name, "another-password").status_code == 403


def wait_until_out(browser: httpx.Client) -> None:
    deadline = time.monotonic() + 10  # who asks is remembered for 3 s
    while browser.get("/review").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_guesses_from_elsewhere_do_not_lock_a_person_out(cloud: Any, browser: httpx.Client) -> None:
    name = f"eve-{uuid4().hex[:6]}"
    cloud.run("user", "add", name, "--role", "reviewer", secret="a-password-of-eves")
    # As a proxy on this machine says.
    elsewhere = {"X-Forwarded-For": "203.0.113.7"}
    with httpx.Client(base_url=cloud.url, headers=elsewhere, timeout=20) as guesser:
        for _ in range(5):
            assert sign_in(guesser, name, "guess").status_code == 403
        assert sign_in(guesser, name, "a-password-of-eves").status_code == 429
    assert sign_in(browser, name, "a-password-of-eves").status_code == 303


def test_names_are_escaped(browser: httpx.Client) -> None:
    page = browser.get("/sign-in", params={"next": '/"><script>alert(1)</script>'})
    assert "<script>" not in page.text
