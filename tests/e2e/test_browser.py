"""A person's way through: trigger form, graph, report, and localcloud's pages, in real Chromium.

Screenshots go to build/screens; the README shows three of them.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect

from stack.demo import DAG_ID
from stack.localcloud import PORTAL_USER

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
SIZE = {"width": 1500, "height": 1000}


@pytest.fixture(scope="module")
def page(world: Any, browser: Browser) -> Page:
    page = browser.new_page(viewport=SIZE)
    world.sign_in(page)
    return page


def _around(nodes: Locator) -> FloatRect:
    """Return the rectangle of the page that holds all nodes, with a margin."""
    boxes = [box for node in nodes.all() if (box := node.bounding_box())]
    left, top = min(b["x"] for b in boxes), min(b["y"] for b in boxes)
    right = max(b["x"] + b["width"] for b in boxes)
    bottom = max(b["y"] + b["height"] for b in boxes)
    margin = 20
    return {
        "x": left - margin, "y": top - margin,
        "width": right - left + 2 * margin, "height": bottom - top + 2 * margin,
    }  # fmt: skip


def _open_form(page: Page, world: Any) -> None:
    page.goto(f"{world.stack.airflow.url}/dags/{DAG_ID}")
    page.get_by_test_id("trigger-dag-button").click()
    expect(page.locator("#element_model_uri")).to_be_visible(timeout=20_000)
    # A Param of several types is edited as text.
    expect(page.locator("#element_data_input_config")).to_have_value(
        re.compile("image"), timeout=20_000
    )


def test_the_form_refuses_a_bad_value(page: Page, world: Any) -> None:
    _open_form(page, world)
    page.screenshot(path=SCREENS / "form.png")
    page.fill("#element_model_uri", "s3://model-delivery/model.zip")
    page.get_by_test_id("trigger-dag-submit").click()
    expect(page.get_by_text("Failed to Trigger Dag").first).to_be_visible(timeout=20_000)
    assert "/runs/" not in page.url


def test_the_form_starts_a_run_that_succeeds(page: Page, world: Any) -> None:
    _open_form(page, world)
    page.fill("[name=element_min_accuracy]", "0.8")
    page.get_by_test_id("trigger-dag-submit").click()
    page.wait_for_url(re.compile("/runs/manual__"), timeout=30_000)
    run_id = page.url.rpartition("/runs/")[2]
    state, tasks = world.finish(run_id)
    assert state == "success"
    assert world.rest.xcom(tasks["quality_gate:-1"])["min_accuracy"] == 0.8
    page.goto(f"{world.stack.airflow.url}/dags/{DAG_ID}/runs/{run_id}")
    graph = page.locator('[aria-label^="Show Graph"]').first
    graph.click(timeout=20_000)
    expect(page.locator(".react-flow__node").first).to_be_visible(timeout=20_000)
    page.set_viewport_size({"width": 2600, "height": 700})
    page.get_by_label("Fit view").or_(page.locator(".react-flow__controls-fitview")).first.click()
    page.wait_for_timeout(2_000)  # the view moves
    page.screenshot(path=SCREENS / "graph.png", clip=_around(page.locator(".react-flow__node")))
    page.set_viewport_size(SIZE)


def test_the_report_opens_from_its_task(page: Page, world: Any, delivered: Any) -> None:
    run_id, _tasks = delivered
    path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/report/links"
    address = world.rest.get(path)["extra_links"]["Delivery report"]
    page.goto(address)
    expect(page.get_by_text("98.0%").first).to_be_visible()
    page.screenshot(path=SCREENS / "report.png", full_page=True)
    page.context.clear_cookies()
    assert page.request.get(address).status == 401


def test_localcloud_shows_the_job_after_signing_in(page: Page, world: Any, delivered: Any) -> None:
    _run_id, tasks = delivered
    address = world.rest.xcom(tasks["compile:-1"], key="job_link")
    page.goto(address)
    page.fill("input[type=password]", world.stack.credentials.localcloud_user_password)
    page.fill("input:not([type=password]):not([type=hidden])", PORTAL_USER)
    page.keyboard.press("Enter")
    expect(page.get_by_text("COMPLETED").first).to_be_visible()
    assert page.url == address
    page.screenshot(path=SCREENS / "job.png", full_page=True)
