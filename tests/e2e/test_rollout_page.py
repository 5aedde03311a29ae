"""A rollout in real Chromium: what the page shows in the middle of an abort, and its buttons.

Screenshots go to build/screens; the docs keep one of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET
from tests.contract.test_greengrass import Agent, recipe, token_for
from tests.local_cloud import REGION, Cloud
from tests.review_portal import running_cloud

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 390, "height": 780}
PASSWORD = "a-password-of-the-fleet"
PLACE = f"/rollouts/{ACCOUNT}/{REGION}/digits-r7"
BUNDLE = b"a bundle of a fleet" * 100
DIGEST = "sha256:" + "5f" * 32


@dataclass
class Fleet:
    cloud: Cloud
    iot: Any
    greengrass: Any

    def update(self, description: str, **attributes: str) -> None:
        """Write the record as whoever runs the rollout does."""
        payload = {"attributes": attributes, "merge": True}
        properties = {"thingGroupDescription": description, "attributePayload": payload}
        self.iot.update_thing_group(
            thingGroupName="rollout-digits-r7", thingGroupProperties=properties
        )

    @property
    def record(self) -> dict[str, str]:
        found = self.iot.describe_thing_group(thingGroupName="rollout-digits-r7")
        return dict(found["thingGroupProperties"]["attributePayload"]["attributes"])

    def stage(self, number: int, things: list[str], **job: Any) -> None:
        name = f"stage-{number}"
        arn = self.iot.create_thing_group(thingGroupName=name)["thingGroupArn"]
        for thing in things:
            self.iot.create_thing(thingName=thing)
            self.iot.add_thing_to_thing_group(thingGroupName=name, thingName=thing)
        self.greengrass.create_deployment(
            targetArn=arn, deploymentName=f"digits {number}", iotJobConfiguration=job,
            components={"digits": {"componentVersion": "2.0.0"}},
            tags={
                "model-delivery:rollout": "digits-r7",
                "model-delivery:stage": str(number),
                "model-delivery:stages": "3",
            },
        )  # fmt: skip

    def report(self, thing: str, status: str, error: str | None = None) -> None:
        """Register a device and let it say how its deployment went."""
        agent = Agent(self.cloud, thing)
        assert agent.register(token_for(self.cloud, thing)).status_code == 201
        state = agent.desired().json()
        version = "2.0.0" if status == "SUCCEEDED" else "1.4.0"
        running = {"name": "digits", "version": version, "digest": DIGEST, "model_digest": DIGEST}
        told = {"generation": state["generation"], "deployment_id": state["deployment_id"]}
        agent.report(**told, status=status, error=error, running=[running])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_cloud(tmp_path_factory.mktemp("fleet")) as cloud:
        for name, role in (("lea", "lead"), ("rob", "reviewer")):
            cloud.run("user", "add", name, "--role", role, secret=PASSWORD)
        built = Fleet(cloud, cloud.client("iot"), cloud.client("greengrassv2"))
        cloud.store.client().put_object(Bucket=BUCKET, Key="digits.tar.gz", Body=BUNDLE)
        built.greengrass.create_component_version(
            inlineRecipe=recipe("digits", "2.0.0", f"s3://{BUCKET}/digits.tar.gz")
        )
        built.iot.create_thing_group(
            thingGroupName="rollout-digits-r7",
            thingGroupProperties={
                "attributePayload": {
                    "attributes": {
                        "format": "1", "state": "RUNNING", "component": "digits",
                        "version": "2.0.0", "previous": "1.4.0", "digest": DIGEST,
                        "target": "cameras", "stage": "2", "stages": "3",
                        "success": "0.9", "error": "0.25", "least": "3",
                        "stage-1": "name=canary,devices=2,state=SUCCEEDED,"
                        "ended=2026-01-05T10:00:00Z",
                        "stage-2": "name=site-oslo,devices=6,state=RUNNING",
                        "stage-3": "name=everywhere,devices=3,state=WAITING",
                    }
                }
            },
        )  # fmt: skip
        built.stage(1, ["cam-01", "cam-02"])
        built.stage(2, [f"cam-{number:02d}" for number in range(3, 9)])
        built.stage(
            3, ["cam-09", "cam-10", "cam-11"], jobExecutionsRolloutConfig={"maximumPerMinute": 1}
        )
        for thing in ("cam-01", "cam-02", "cam-03"):
            built.report(thing, "SUCCEEDED")
        built.report("cam-04", "FAILED", "golden output 3 differs by 0.5, tolerance 0.001")
        built.report("cam-05", "FAILED", "NaN in output scores of golden sample 0")
        built.report("cam-06", "IN_PROGRESS")
        yield built


@pytest.fixture
def person(browser: Browser, fleet: Fleet) -> Iterator[Any]:
    pages: list[tuple[Page, list[str]]] = []

    def come(name: str, size: Any = DESKTOP) -> Page:
        page = browser.new_context(viewport=size).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        pages.append((page, errors))
        page.goto(f"{fleet.cloud.url}/sign-in?next=/rollouts")
        page.fill("#name", name)
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{fleet.cloud.url}/rollouts")
        return page

    yield come
    for page, errors in pages:
        assert not errors, errors
        page.context.close()


def check(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    bad = [each["id"] for each in found if each["impact"] in {"serious", "critical"}]
    assert not bad, bad


def figures(page: Page) -> dict[str, str]:
    texts = [each.split() for each in page.locator(".figure").all_inner_texts()]
    return {" ".join(words[1:]): words[0] for words in texts}


def test_the_page_shows_who_failed_and_keeps_focus_while_it_refreshes(
    person: Any, fleet: Fleet
) -> None:
    page = person("lea")
    check(page)
    page.screenshot(path=SCREENS / "rollouts.png")
    page.get_by_role("link", name="digits-r7").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("RUNNING")
    assert figures(page) == {
        "Succeeded": "3", "Failed": "2", "Timed out": "0", "Under way": "1", "Offline": "3",
        "Waiting": "2", "Cancelled": "0",
    }  # fmt: skip
    expect(page.locator("#devices")).to_contain_text("golden output 3 differs by 0.5")
    expect(page.locator("#plan")).to_contain_text("0.67 failed: 2 of 3")
    check(page)
    link = page.locator("#d-cam-06")
    link.focus()
    fleet.report("cam-06", "FAILED", "latency p99 81 ms, limit 50 ms")
    fleet.update("Stage 2 aborted: 3 of 4 devices failed, more than 25 %", state="ABORTED")
    expect(page.get_by_role("heading", level=1)).to_contain_text("ABORTED")
    expect(page.get_by_role("alert")).to_contain_text("3 of 4 devices failed")
    expect(page.locator("#devices")).to_contain_text("latency p99 81 ms")
    expect(link).to_be_focused()
    expect(page.get_by_role("link", name="Pause")).to_have_count(0)
    check(page)
    page.screenshot(path=SCREENS / "rollout-aborted.png", full_page=True)
    link.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("cam-06")
    expect(page.locator("#deployments")).to_contain_text("latency p99")
    check(page)
    page.screenshot(path=SCREENS / "rollout-device.png", full_page=True)
    fleet.update("", state="RUNNING")


def test_a_lead_asks_for_a_pause_and_means_it(person: Any, fleet: Fleet) -> None:
    fleet.update("Stage 2 is under way", state="RUNNING", wish="")
    page = person("lea", PHONE)
    page.goto(fleet.cloud.url + PLACE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], width
    check(page)
    page.screenshot(path=SCREENS / "rollout-phone.png", full_page=True)
    page.get_by_role("link", name="Pause").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Pause this rollout?")
    check(page)
    page.screenshot(path=SCREENS / "rollout-confirm.png")
    page.get_by_role("link", name="Leave it").click()
    assert "wish" not in fleet.record
    page.get_by_role("link", name="Pause").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("Asked by lea: pause")
    assert (fleet.record["wish"], fleet.record["wish-by"]) == ("pause", "lea")


def test_a_rollout_that_has_gone_on_is_not_touched(person: Any, fleet: Fleet) -> None:
    fleet.update("Stage 2 waits", state="WAITING_APPROVAL", wish="")
    page = person("lea")
    page.goto(fleet.cloud.url + PLACE)
    page.get_by_role("link", name="Approve").click()
    fleet.update("Stage 2 aborted", state="ABORTED")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("it is ABORTED now")
    assert "wish" not in fleet.record


def test_reviewers_look_and_ask_for_nothing(person: Any, fleet: Fleet) -> None:
    fleet.update("Stage 2 is under way", state="RUNNING", wish="")
    page = person("rob")
    page.goto(fleet.cloud.url + PLACE)
    expect(page.get_by_role("heading", level=1)).to_contain_text("RUNNING")
    expect(page.get_by_role("link", name="Pause")).to_have_count(0)
    answer = page.goto(f"{fleet.cloud.url}{PLACE}/wish/pause")
    assert answer is not None
    assert answer.status == 403
    forged = page.request.post(f"{fleet.cloud.url}{PLACE}/wish/pause", form={"version": "1"})
    assert forged.status == 403


def test_a_form_without_its_token_changes_nothing(person: Any, fleet: Fleet) -> None:
    page = person("lea")
    version = str(fleet.iot.describe_thing_group(thingGroupName="rollout-digits-r7")["version"])
    forged = page.request.post(
        f"{fleet.cloud.url}{PLACE}/wish/pause", form={"version": version, "csrf": "made-up"}
    )
    assert forged.status == 403
    assert "wish" not in fleet.record
