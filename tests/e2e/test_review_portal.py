"""Whole reviews in real Chromium: by mouse, by keyboard alone, at phone width, and what axe says.

Screenshots go to build/screens; the docs keep some of them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from model_delivery_engine.review.forms import form
from PIL import Image
from playwright.sync_api import Browser, FrameLocator, Page, expect

from tests.contract.review_world import PASSWORD, make_flow
from tests.review_portal import TEXT_TEMPLATE, Portal, form_without_pairs, put_image, running_portal

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
DESKTOP = {"width": 1400, "height": 860}
PHONE = {"width": 390, "height": 780}
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    with running_portal(
        tmp_path_factory.mktemp("portal"), LOCALCLOUD_REVIEW_UNDO_SECONDS="3"
    ) as built:
        groups = [part for flow in built.flows.values() for part in ("--group", flow.group)]
        for name, role in (("ana", "reviewer"), ("bob", "reviewer"), ("cyd", "reviewer"),
                           ("lea", "lead")):  # fmt: skip
            built.cloud.run("user", "add", name, "--role", role, *groups, secret=PASSWORD)
        yield built


class Person:
    """Somebody at a browser; the page's own errors fail the test."""

    def __init__(self, browser: Browser, portal: Portal, name: str, size: Any, **more: Any) -> None:
        self.portal = portal
        self.context = browser.new_context(viewport=size, **more)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{portal.cloud.url}/sign-in?next=/review")
        self.page.fill("#name", name)
        self.page.fill("#password", PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(f"{portal.cloud.url}/review")

    def open(self, about: str, page: str = "") -> Page:
        self.page.goto(f"{self.portal.cloud.url}/review/{self.portal.flow(about).id}{page}")
        if not page:
            expect(self.page.locator("#work")).to_be_visible()
        return self.page

    def screenshot(self, name: str) -> None:
        self.page.screenshot(path=SCREENS / f"review-{name}.png")

    def check(self) -> None:
        found = Axe().run(self.page).response["violations"]
        bad = [
            f"{each['id']}: {each['nodes'][0]['html'][:200]}"
            for each in found
            if each["impact"] in SERIOUS
        ]
        assert not bad, bad

    def leave(self) -> None:
        assert not self.errors, self.errors
        self.context.close()


@pytest.fixture
def person(browser: Browser, portal: Portal) -> Iterator[Any]:
    people: list[Person] = []

    def come(name: str, size: Any = DESKTOP, **more: Any) -> Person:
        people.append(Person(browser, portal, name, size, **more))
        return people[-1]

    yield come
    for each in people:
        each.leave()


def answers(portal: Portal, about: str, loop: str) -> list[Any]:
    return [each["answerContent"] for each in portal.flow(about).output(loop)["humanAnswers"]]


def submit_last(page: Page, frame: FrameLocator) -> None:
    """Submit the last item of a queue, whose template is in a frame."""
    frame.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="All done here")).to_be_visible()


def settled(page: Page, name: str) -> None:
    """Wait until the desk shows another item than `name`."""
    expect(page.locator("#item-name")).not_to_have_text(name)


def test_a_review_by_mouse_with_zoom_skip_and_undo(person: Any) -> None:
    ana = person("ana")
    expect(ana.page.get_by_role("heading", name="Read the digit")).to_be_visible()
    ana.check()
    ana.screenshot("queues")
    page = ana.open("digits")
    first = page.locator("#item-name").inner_text()
    assert first == "digit-000", "the least certain comes first"
    expect(page.locator("#model")).to_have_text("The model says 4, 32 % sure")
    expect(page.get_by_text("Confidence check: confidence less than 0.6")).to_be_visible()
    ana.check()
    ana.screenshot("digits")
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator(".level")).to_have_text("130 %")
    stage = page.locator(".stage").bounding_box()
    before = page.locator(".canvas").get_attribute("style")
    page.mouse.move(stage["x"] + 300, stage["y"] + 300)
    page.mouse.down()
    page.mouse.move(stage["x"] + 380, stage["y"] + 340, steps=4)
    page.mouse.up()
    assert page.locator(".canvas").get_attribute("style") != before
    page.locator(".label", has_text="0").click()
    settled(page, first)
    expect(page.locator("#progress")).to_contain_text("1 answered")
    page.locator("#undo").click()
    expect(page.locator("#item-name")).to_have_text(first)
    expect(page.locator(".label[aria-pressed=true]")).to_have_text("0")
    page.locator(".label", has_text="0").click()
    settled(page, first)
    second = page.locator("#item-name").inner_text()
    page.locator("#skip").click()
    settled(page, second)


def test_a_review_by_keyboard_alone(person: Any, portal: Portal) -> None:
    bob = person("bob")
    page = bob.page
    page.get_by_role("link", name="Begin with Read the digit").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#item-name")).to_have_text("digit-000")
    page.keyboard.press("0")
    expect(page.locator("#item-name")).to_have_text("digit-001")
    page.keyboard.press("Enter")
    expect(page.locator("#item-name")).to_have_text("digit-002")
    page.keyboard.press("s")
    expect(page.locator("#item-name")).to_have_text("digit-003")
    page.keyboard.press("u")
    expect(page.locator("#item-name")).to_have_text("digit-001")
    page.keyboard.press("+")
    expect(page.locator(".level")).to_have_text("130 %")
    page.keyboard.press("?")
    expect(page.locator("dialog#keys")).to_be_visible()
    bob.check()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    settled(page, "digit-001")
    assert answers(portal, "digits", "digit-000") == [{"digit": {"label": "0"}}] * 2


def test_text_by_keys_on_a_phone(person: Any, portal: Portal) -> None:
    ana = person("ana", PHONE, has_touch=True, is_mobile=True)
    page = ana.open("texts")
    expect(page.get_by_role("region", name="The item's text")).to_contain_text("The hinge broke")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"], "the page must not scroll sideways"
    ana.check()
    ana.screenshot("phone-text")
    page.locator(".label", has_text="Neutral").tap()
    expect(page.locator("#item-name")).to_have_text("text-1")
    page.locator("#submit").tap()
    expect(page.locator("#item-name")).to_have_text("text-2")
    page.wait_for_timeout(300)  # sooner, it is the second half of a double tap
    page.locator("#submit").tap()
    expect(page.get_by_role("heading", name="All done here")).to_be_visible()
    ana.check()
    assert answers(portal, "texts", "text-0") == [{"mood": {"label": "Neutral"}}]
    page = ana.open("digits")
    ana.screenshot("phone-digit")


def test_long_words_stay_within_a_phones_width(person: Any, portal: Portal) -> None:
    word = "Donaudampfschifffahrt" * 8
    only(portal, "uma", """
      <crowd-form><crowd-classifier name="c" header="{{ task.input.word }}"
          categories="{{ task.input.labels | to_json | escape }}">
        <classification-target>{{ task.input.word }}</classification-target>
        <short-instructions>{{ task.input.word }}</short-instructions>
      </crowd-classifier></crowd-form>
    """, word=word, labels=[word, "short"], initialValue=word, confidence=0.5)  # fmt: skip
    page = person("uma", PHONE, has_touch=True, is_mobile=True).open("uma")
    expect(page.locator("#model")).to_contain_text("The model says")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    del portal.flows["uma"]


def test_a_draft_is_there_after_a_reload(person: Any) -> None:
    cyd = person("cyd")
    page = cyd.open("digits")
    page.locator("#once").uncheck()
    page.locator(".label", has_text="9").click()
    expect(page.locator("#status")).to_have_text("Draft kept.")
    name = page.locator("#item-name").inner_text()
    page.reload()
    expect(page.locator("#item-name")).to_have_text(name)
    expect(page.locator(".label[aria-pressed=true]")).to_have_text("9")


def test_a_form_with_boxes_is_corrected(person: Any, portal: Portal) -> None:
    ana = person("ana")
    page = ana.open("forms")
    field = page.get_by_label("Date of birth", exact=True)
    expect(field).to_be_focused()
    expect(page.locator(".box.marked")).to_have_count(2)
    ana.check()
    ana.screenshot("form")
    field.fill("10/04/1985")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Town", exact=True)).to_be_focused()
    page.keyboard.type("Bristol")
    page.locator(".box.value").last.click()
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.press("Control+Enter")
    settled(page, "form-0")
    (given,) = answers(portal, "forms", "form-0")
    blocks = given["AWS/Textract/AnalyzeDocument/Forms/V1"]["blocks"]
    texts = {block["id"]: block["text"] for block in blocks}
    assert texts["value-1"] == "10/04/1985"
    assert texts["value-3"] == "Bristol"
    assert texts["key-0"] == "Name"


def test_a_field_that_was_not_read_is_added(person: Any, portal: Portal) -> None:
    flow = form_without_pairs(portal.cloud)
    portal.flows["missing"] = flow
    portal.cloud.run(
        "user", "add", "mia", "--role", "reviewer", "--group", flow.group, secret=PASSWORD
    )
    mia = person("mia")
    page = mia.open("missing")
    field = page.get_by_label("Mail address", exact=True)
    expect(field).to_be_focused()
    field.fill("ana@example.com")
    page.get_by_role("button", name="Add a field").click()
    expect(page.get_by_label("Name of the field added")).to_be_focused()
    page.keyboard.type("Fax")
    page.get_by_label("Value of").fill("none")
    expect(page.locator("#status")).to_have_text("Draft kept.")
    mia.check()
    mia.screenshot("form-missing")
    page.reload()
    expect(page.get_by_label("Mail address", exact=True)).to_have_value("ana@example.com")
    expect(page.get_by_label("Value of")).to_have_value("none")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="All done here")).to_be_visible()
    (given,) = answers(portal, "missing", "missing-1")
    pairs = form(b"", given["AWS/Textract/AnalyzeDocument/Forms/V1"]).pairs
    assert [(pair.key, pair.value) for pair in pairs] == [
        ("Mail address", "ana@example.com"), ("Fax", "none"),
    ]  # fmt: skip
    del portal.flows["missing"]


def test_moderation_keeps_what_is_true(person: Any, portal: Portal) -> None:
    page = person("ana").open("moderation")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="All done here")).to_be_visible()
    assert answers(portal, "moderation", "upload-1") == [
        {
            "AWS/Rekognition/DetectModerationLabels/Image/V3": {
                "moderationLabels": [{"name": "Alcohol", "parentName": "Drugs"}]
            }
        }
    ]


def test_many_are_accepted_at_once_and_the_wrong_left_out(person: Any) -> None:
    cyd = person("cyd")
    page = cyd.open("digits", "/grid")
    expect(page.locator("#accept")).to_have_text("Accept 24")
    page.locator(".card-item").nth(8).click()
    page.locator(".card-item").nth(3).focus()
    page.keyboard.press("Space")
    expect(page.locator("#accept")).to_have_text("Accept 22")
    cyd.check()
    cyd.screenshot("grid")
    page.locator("#accept").click()
    expect(page.locator("#status")).to_have_text("22 accepted.")
    expect(page.locator("#left")).to_contain_text("Review the other")
    page.locator("#left").click()
    expect(page.locator("#work")).to_be_visible()


def test_enter_pressed_twice_accepts_one_page(person: Any, portal: Portal) -> None:
    flow = make_flow(portal.cloud, TEXT_TEMPLATE)
    for number in range(60):
        flow.start(f"said-{number}", text="Good.", initialValue="Positive", confidence=0.9)
    portal.cloud.run(
        "user", "add", "yan", "--role", "reviewer", "--group", flow.group, secret=PASSWORD
    )
    portal.flows["twice"] = flow
    page = person("yan").open("twice", "/grid")
    expect(page.locator("#accept")).to_have_text("Accept 24")
    page.wait_for_timeout(1000)
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url))
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("24 accepted.")
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    assert sum(url.endswith("/accept") for url in calls) == 1
    page.keyboard.press("Enter")
    expect(page.locator("#accept")).to_have_text("Accept 12")
    assert sum(url.endswith("/accept") for url in calls) == 2
    del portal.flows["twice"]


def test_a_page_that_was_accepted_is_taken_back(person: Any, portal: Portal) -> None:
    flow = make_flow(portal.cloud, TEXT_TEMPLATE, config={"TaskCount": 2})
    for number in range(30):
        flow.start(
            f"back-{number:02}", text=f"Text {number}.", initialValue="Positive",
            confidence=0.5 + number / 100,
        )  # fmt: skip
    portal.cloud.run(
        "user", "add", "hal", "--role", "reviewer", "--group", flow.group, secret=PASSWORD
    )
    portal.flows["taken-back"] = flow
    hal = person("hal")
    page = hal.open("taken-back", "/grid")
    cards = page.locator(".snippet")
    expect(cards).to_have_count(24)
    first = cards.all_inner_texts()
    expect(page.locator("#undo")).to_be_hidden()
    page.locator("#accept").click()
    expect(page.locator("#status")).to_have_text("24 accepted.")
    expect(cards).to_have_count(6)
    expect(page.locator("#undo")).to_have_text("Undo these 24")
    hal.check()
    hal.screenshot("grid-undo")
    page.keyboard.press("u")
    expect(page.locator("#status")).to_have_text("24 are back.")
    expect(page.locator("#undo")).to_be_hidden()
    assert sorted(cards.all_inner_texts()) == sorted(first)
    page.wait_for_timeout(1000)  # what comes up behind another page is looked at first
    page.locator("#accept").click()
    expect(page.locator("#status")).to_have_text("24 accepted.")
    del portal.flows["taken-back"]


def test_a_template_with_every_element_is_filled_in_and_submitted(
    person: Any, portal: Portal
) -> None:
    ana = person("ana")
    page = ana.open("elements")
    frame = page.frame_locator("iframe.template")
    expect(frame.get_by_role("heading", name="The meadow")).to_be_visible()
    ana.check()
    stage = frame.locator(".box-stage img").bounding_box()
    page.mouse.move(stage["x"] + 100, stage["y"] + 240)
    page.mouse.down()
    page.mouse.move(stage["x"] + 220, stage["y"] + 310, steps=5)
    page.mouse.up()
    expect(frame.get_by_text("1 box")).to_be_visible()
    frame.locator(".box-stage").focus()
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.keyboard.press("n")
    expect(frame.get_by_text("2 boxes")).to_be_visible()
    ana.screenshot("template")
    frame.get_by_role("button", name="Submit").click()
    expect(frame.get_by_role("alert")).to_have_text("The weather?: choose one first.")
    frame.get_by_role("button", name="sun").click()
    frame.get_by_role("button", name="cow").last.click()
    frame.get_by_role("button", name="dog").click()
    frame.get_by_role("button", name="Submit").click()
    expect(frame.get_by_role("alert")).to_contain_text("Where is it?")
    frame.get_by_label("Where is it?").fill("<script>alert(1)</script>")
    frame.get_by_label("Remarks").fill("none")
    frame.get_by_role("radio", name="Sharp").check()
    frame.get_by_label("It was taken at night").check()
    frame.get_by_role("button", name="Full size").click()
    frame.get_by_role("button", name="View instructions").click()
    expect(frame.get_by_text("A box around two cows.")).to_be_visible()
    frame.get_by_role("button", name="Close").click()
    submit_last(page, frame)
    flow = portal.flow("elements")
    name = flow.runtime.list_human_loops(FlowDefinitionArn=flow.arn)["HumanLoopSummaries"][0]
    (given,) = answers(portal, "elements", name["HumanLoopName"])
    boxes = given.pop("annotatedResult")
    assert given == {
        "weather": {"label": "sun"},
        "animals": {"labels": ["cow", "dog"]},
        "place": "<script>alert(1)</script>",
        "remarks": "none",
        "sharpness": {"sharp": True, "blurred": False},
        "night": {"yes": True},
    }
    assert boxes["inputImageProperties"] == {"height": 400, "width": 640}
    drawn, placed = boxes["boundingBoxes"]
    assert (drawn["label"], placed["label"]) == ("cow", "calf")
    assert abs(drawn["left"] - 100) <= 2
    assert abs(drawn["width"] - 120) <= 2


def test_a_template_cannot_reach_the_session_or_the_network(
    person: Any, portal: Portal, browser: Browser
) -> None:
    spy = make_flow(
        portal.cloud,
        """
      <crowd-form><crowd-input name="what" label="What"></crowd-input></crowd-form>
      <p id="found">nothing</p>
      <script>
        const found = [];
        const attempt = (name, work) => {
          try { found.push(name + "=" + work()); }
          catch (error) { found.push(name + "!" + error.name); }
        };
        attempt("cookie", () => document.cookie || "none");
        attempt("parent", () => parent.document.body.innerHTML.length);
        attempt("storage", () => localStorage.length);
        attempt("top", () => {
          if (top !== self) top.location = "about:blank";
          return "self";
        });
        fetch("/review/api/session")
          .then(() => found.push("fetch=done"), () => found.push("fetch!refused"))
          .finally(() => { document.getElementById("found").textContent = found.join(" "); });
      </script>
    """,
    )
    spy.start()
    portal.cloud.run(
        "user", "add", "eve", "--role", "reviewer", "--group", spy.group, secret=PASSWORD
    )
    portal.flows["spy"] = spy
    page = person("eve").open("spy")
    found = page.frame_locator("iframe.template").locator("#found")
    expect(found).to_contain_text("fetch!")
    assert found.inner_text() == (
        "cookie!SecurityError parent!SecurityError storage!SecurityError top!SecurityError "
        "fetch!refused"
    )
    # Opened by itself it could go elsewhere, so it does not open; its header locks it up besides.
    alone = page.context.new_page()
    source = f"{portal.cloud.url}{page.locator('iframe.template').get_attribute('src')}"
    answer = alone.goto(source)
    assert answer is not None
    assert answer.status == 403
    assert "sandbox allow-scripts" in httpx.get(source).headers["content-security-policy"]
    del portal.flows["spy"]


def test_a_template_presses_no_keys(person: Any, portal: Portal) -> None:
    presser = make_flow(portal.cloud, """
      <crowd-form><crowd-input name="what" label="What"></crowd-input></crowd-form>
      <script>
        for (const key of ["u", "s", "g"]) parent.postMessage({ type: "key", key }, "*");
      </script>
    """)  # fmt: skip
    for number in range(2):
        presser.start(f"pressed-{number}", confidence=number / 10)
    portal.cloud.run(
        "user", "add", "eva", "--role", "reviewer", "--group", presser.group, secret=PASSWORD
    )
    portal.flows["presser"] = presser
    page = person("eva").open("presser")
    for name in ("pressed-0", "pressed-1"):
        expect(page.locator("#item-name")).to_have_text(name)
        page.frame_locator("iframe.template").get_by_label("What").fill("x")
        page.wait_for_timeout(500)
        page.frame_locator("iframe.template").get_by_role("button", name="Submit").click()
    expect(page.locator("#progress")).to_contain_text("2 answered")
    del portal.flows["presser"]


def only(portal: Portal, who: str, template: str, **content: Any) -> str:
    """Start a queue of one item that is somebody's alone; return the item's name."""
    flow = make_flow(portal.cloud, template)
    name = flow.start(**content)
    portal.cloud.run(
        "user", "add", who, "--role", "reviewer", "--group", flow.group, secret=PASSWORD
    )
    portal.flows[who] = flow
    return name


def test_what_stands_beside_a_classifier_is_shown_and_asked(person: Any, portal: Portal) -> None:
    name = only(portal, "oda", """
      <crowd-form>
        <h2>The customer asks</h2><p>{{ task.input.question }}</p>
        <crowd-classifier name="ok" header="Does it fit?" categories="['yes', 'no']">
          <classification-target>{{ task.input.answer }}</classification-target>
        </crowd-classifier>
        <textarea name="why" required aria-label="Why?"></textarea>
      </crowd-form>
    """, question="How do I reset it?", answer="Hold the button.")  # fmt: skip
    page = person("oda").open("oda")
    frame = page.frame_locator("iframe.template")
    expect(frame.get_by_text("How do I reset it?")).to_be_visible()
    frame.get_by_label("Why?").fill("It says how.")
    frame.get_by_role("button", name="yes").click()
    submit_last(page, frame)
    assert answers(portal, "oda", name) == [{"ok": {"label": "yes"}, "why": "It says how."}]
    del portal.flows["oda"]


def test_boxes_to_be_judged_are_drawn(person: Any, portal: Portal) -> None:
    image = put_image(portal.cloud, "judged.png", Image.new("RGB", (400, 200), "white"))
    name = only(portal, "eva", """
      <crowd-form>
        <crowd-image-classifier name="ok" src="{{ task.input.image | grant_read_access }}"
            header="Are the boxes right?" categories="['good', 'bad']"
            overlay='{ "boundingBox": { labels: ["cow", "calf"], value: [
              { height: 80, label: "cow", left: 100, top: 50, width: 120 },
              { height: 40, label: "calf", left: 260, top: 90, width: 60 } ] }, }'>
        </crowd-image-classifier>
      </crowd-form>
    """, image=image)  # fmt: skip
    eva = person("eva")
    page = eva.open("eva")
    frame = page.frame_locator("iframe.template")
    expect(frame.locator(".drawn")).to_have_text(["cow", "calf"])
    shown = frame.locator("img").bounding_box()
    cow = frame.locator(".drawn").first.bounding_box()
    scale = shown["width"] / 400
    assert abs(cow["x"] - shown["x"] - 100 * scale) < 1
    assert abs(cow["y"] - shown["y"] - 50 * scale) < 1
    eva.check()
    eva.screenshot("overlay")
    frame.get_by_role("button", name="good").click()
    submit_last(page, frame)
    assert answers(portal, "eva", name) == [{"ok": {"label": "good"}}]
    del portal.flows["eva"]


@pytest.mark.parametrize("beside", ["", "<p>Look well.</p>"])
def test_none_of_the_above_excludes_the_others(person: Any, portal: Portal, beside: str) -> None:
    who = "fay" if beside else "gus"
    name = only(portal, who, f"""
      <crowd-form>{beside}
        <crowd-classifier-multi-select name="k" header="Which?" categories="['cow', 'dog']"
            exclusion-category="{{ text: 'None of these' }}">
          <classification-target>{{{{ task.input.text }}}}</classification-target>
        </crowd-classifier-multi-select>
      </crowd-form>
    """, text="A meadow.")  # fmt: skip
    one = person(who)
    page = one.open(who)
    asked = page.frame_locator("iframe.template") if beside else page
    submit = asked.get_by_role("button", name="Submit")
    submit.click()
    expect(asked.get_by_text("first.")).to_be_visible()
    for label in ("cow", "dog", "None of these"):
        asked.get_by_role("button", name=label).click()
    pressed = asked.locator("[data-label][aria-pressed=true]")
    expect(pressed).to_have_count(1)
    asked.get_by_role("button", name="dog").click()
    expect(pressed).to_have_attribute("data-label", "dog")
    asked.get_by_role("button", name="None of these").click()
    one.screenshot(f"exclusion-{who}")
    submit.click()
    expect(page.get_by_role("heading", name="All done here")).to_be_visible()
    assert answers(portal, who, name) == [{"k": {"labels": ["None of these"]}}]
    del portal.flows[who]


def test_radio_buttons_that_are_left_alone_are_no_answer(person: Any, portal: Portal) -> None:
    name = only(portal, "ira", """
      <crowd-form>
        <crowd-radio-group label="Is it sharp?">
          <crowd-radio-button name="sharp" value="yes">Yes</crowd-radio-button>
          <crowd-radio-button name="sharp" value="no">No</crowd-radio-button>
        </crowd-radio-group>
        <crowd-radio-group label="Is it day?">
          <crowd-radio-button name="day" value="day">Day</crowd-radio-button>
          <crowd-radio-button name="night" value="night">Night</crowd-radio-button>
        </crowd-radio-group>
      </crowd-form>
    """)  # fmt: skip
    page = person("ira").open("ira")
    frame = page.frame_locator("iframe.template")
    frame.get_by_label("Day", exact=True).check()
    expect(page.locator("#status")).to_have_text("Draft kept.")
    page.reload()
    expect(frame.get_by_label("Day", exact=True)).to_be_checked()
    submit_last(page, frame)
    assert answers(portal, "ira", name) == [{"day": {"day": True}, "night": {"night": False}}]
    del portal.flows["ira"]


def test_plain_inputs_say_all_that_was_chosen(person: Any, portal: Portal) -> None:
    name = only(portal, "uma", """
      <crowd-form>
        <label><input type="checkbox" name="fault" value="scratch"> Scratch</label>
        <label><input type="checkbox" name="fault" value="dent"> Dent</label>
        <label><input type="checkbox" name="fault" value="stain"> Stain</label>
        <label><input type="radio" name="side" value="left"> Left</label>
        <label><input type="radio" name="side" value="right"> Right</label>
        <select name="colours" multiple aria-label="Colours">
          <option>red</option><option>green</option><option>blue</option>
        </select>
      </crowd-form>
    """)  # fmt: skip
    page = person("uma").open("uma")
    frame = page.frame_locator("iframe.template")
    frame.get_by_label("Scratch").check()
    frame.get_by_label("Dent").check()
    frame.get_by_label("Right").check()
    frame.get_by_label("Colours").select_option(["red", "blue"])
    expect(page.locator("#status")).to_have_text("Draft kept.")
    page.reload()
    expect(frame.get_by_label("Dent")).to_be_checked()
    expect(frame.get_by_label("Stain")).not_to_be_checked()
    expect(frame.get_by_label("Colours")).to_have_values(["red", "blue"])
    frame.get_by_label("Scratch").uncheck()
    submit_last(page, frame)
    assert answers(portal, "uma", name) == [
        {
            "fault": {"scratch": False, "dent": True, "stain": False},
            "side": "right",
            "colours": {"red": True, "green": False, "blue": True},
        }
    ]
    del portal.flows["uma"]


def test_what_a_template_sets_before_its_elements_are_there_is_a_first_value_only(
    person: Any, portal: Portal
) -> None:
    name = only(portal, "pia", """
      <crowd-form>
        <crowd-input name="total" label="Total"></crowd-input>
        <crowd-checkbox name="paid" value="yes">Paid</crowd-checkbox>
        <crowd-input name="kept" label="Kept"></crowd-input>
      </crowd-form>
      <script>
        document.querySelector("[name=total]").value = "{{ task.input.sum }}";
        document.querySelector("[name=paid]").checked = true;
        const kept = document.querySelector("[name=kept]");
        kept.value = "as it was";
        kept.disabled = true;
      </script>
    """, sum="42")  # fmt: skip
    page = person("pia").open("pia")
    frame = page.frame_locator("iframe.template")
    expect(frame.get_by_label("Total")).to_have_value("42")
    expect(frame.get_by_label("Paid")).to_be_checked()
    expect(frame.get_by_label("Kept")).to_be_disabled()
    frame.get_by_label("Total").fill("43")
    frame.get_by_label("Paid").uncheck()
    submit_last(page, frame)
    assert answers(portal, "pia", name) == [
        {"total": "43", "paid": {"yes": False}, "kept": "as it was"}
    ]
    del portal.flows["pia"]


def test_a_texts_form_and_length_are_asked_for(person: Any, portal: Portal) -> None:
    name = only(portal, "quy", """
      <crowd-form>
        <crowd-input name="plate" label="Plate" allowed-pattern="[A-Z]+" min-length="2">
        </crowd-input>
        <crowd-text-area name="code" label="Code" allowed-pattern="[0-9\\n]*"
            error-message="Digits and lines alone"></crowd-text-area>
        <crowd-button loading>More</crowd-button>
      </crowd-form>
    """)  # fmt: skip
    page = person("quy").open("quy")
    frame = page.frame_locator("iframe.template")
    expect(frame.get_by_role("button", name="More")).to_be_disabled()
    plate, code = frame.get_by_label("Plate"), frame.get_by_label("Code")
    plate.press_sequentially("B")
    code.fill("12\n3x")
    for field, wrong, right in [
        (plate, "Plate:", "BX"),
        (code, "Digits and lines alone", "12\n34"),
    ]:
        frame.get_by_role("button", name="Submit").click()
        expect(frame.get_by_role("alert")).to_contain_text(wrong)
        field.fill(right)
    submit_last(page, frame)
    assert answers(portal, "quy", name) == [{"plate": "BX", "code": "12\n34"}]
    del portal.flows["quy"]


def test_what_a_template_sets_later_is_set(person: Any, portal: Portal) -> None:
    name = only(portal, "rex", """
      <crowd-form>
        <crowd-input name="total" label="Total"></crowd-input>
        <crowd-text-area name="note" label="Note"></crowd-text-area>
        <crowd-radio-button name="paid" value="yes">Paid</crowd-radio-button>
      </crowd-form>
      <script>
        addEventListener("load", () => {
          document.querySelector("crowd-input").value = "42 EUR";
          document.querySelector("crowd-radio-button").checked = true;
          const made = document.createElement("crowd-input");
          made.name = "made";
          made.value = "by script";
          document.querySelector("crowd-form").append(made);
        });
        document.querySelector("crowd-form").onsubmit = () => {
          const total = document.querySelector("crowd-input");
          total.value = total.value.replace(" EUR", "");
          document.querySelector("crowd-text-area").value = null;
        };
      </script>
    """)  # fmt: skip
    page = person("rex").open("rex")
    frame = page.frame_locator("iframe.template")
    expect(frame.get_by_label("Total")).to_have_value("42 EUR")
    frame.get_by_label("Note").fill("unsaid")
    submit_last(page, frame)
    assert answers(portal, "rex", name) == [
        {"total": "42", "note": "", "paid": {"yes": True}, "made": "by script"}
    ]
    del portal.flows["rex"]


def test_a_template_waits_for_its_elements_and_may_have_a_parent_of_its_own(
    person: Any, portal: Portal
) -> None:
    name = only(portal, "sam", """
      <crowd-form>
        <crowd-bounding-box name="boxes" src="{{ task.input.image | grant_read_access }}"
            labels="['placeholder']"></crowd-bounding-box>
        <crowd-input name="more" label="More"></crowd-input>
      </crowd-form>
      <script>
        var parent = document.createElement("div");
        document.addEventListener("DOMContentLoaded", () => {
          document.addEventListener("all-crowd-elements-ready", () => {
            const boxes = document.querySelector("crowd-bounding-box");
            boxes.labels = [];
            boxes.labels = boxes.labels.concat(["goat", "kid"]);
          });
        });
      </script>
    """, image=put_image(portal.cloud, "goat.png", Image.new("RGB", (200, 100))))  # fmt: skip
    page = person("sam").open("sam")
    frame = page.frame_locator("iframe.template")
    expect(frame.get_by_role("group", name="Label of the next box")).to_have_text("1goat2kid")
    frame.get_by_label("More").fill("a draft")
    expect(page.locator("#status")).to_have_text("Draft kept.")
    page.reload()
    expect(frame.get_by_label("More")).to_have_value("a draft")
    frame.locator(".box-stage").focus()
    page.keyboard.press("2")
    page.keyboard.press("n")
    submit_last(page, frame)
    (given,) = answers(portal, "sam", name)
    assert [box["label"] for box in given["boxes"]["boundingBoxes"]] == ["kid"]
    del portal.flows["sam"]


@pytest.mark.parametrize("count", [1, 2])  # a finger's taps are counted by no browser
def test_a_double_click_answers_one_item(person: Any, portal: Portal, count: int) -> None:
    flow = make_flow(portal.cloud, TEXT_TEMPLATE)
    for number in range(3):
        flow.start(f"double-{count}-{number}", text="Good.", confidence=number / 10)
    role = "--role", "reviewer", "--group", flow.group
    portal.cloud.run("user", "add", f"tom-{count}", *role, secret=PASSWORD)
    portal.flows["double"] = flow
    page = person(f"tom-{count}").open("double")
    label = page.locator(".label", has_text="Neutral").bounding_box()
    page.mouse.move(label["x"] + 20, label["y"] + 10)
    # The second press comes a moment after the next item is shown.
    page.evaluate(
        """([x, y, detail]) => {
          const watched = new MutationObserver(() => {
            watched.disconnect();
            setTimeout(() => document.elementFromPoint(x, y).dispatchEvent(
              new MouseEvent("click", { bubbles: true, clientX: x, clientY: y, detail })), 60);
          });
          watched.observe(document.getElementById("item-name"), { childList: true });
        }""",
        [label["x"] + 20, label["y"] + 10, count],
    )
    page.mouse.down()
    page.mouse.up()
    page.wait_for_timeout(1000)
    expect(page.locator("#item-name")).to_have_text(f"double-{count}-1")
    expect(page.locator("#progress")).to_contain_text("1 answered")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#item-name")).to_have_text(f"double-{count}-2")
    del portal.flows["double"]


def test_a_held_enter_answers_one_item(person: Any) -> None:
    page = person("bob").open("digits")
    first = page.locator("#item-name").inner_text()
    answered = int(page.locator("#progress").inner_text().split()[0])
    page.locator("h1#question").focus()
    page.keyboard.down("Enter")
    settled(page, first)
    for _ in range(10):  # each is a repetition of the key that is held
        page.keyboard.down("Enter")
        page.wait_for_timeout(30)
    page.keyboard.up("Enter")
    expect(page.locator("#progress")).to_contain_text(f"{answered + 1} answered")
    page.locator("#undo").click()
    expect(page.locator("#item-name")).to_have_text(first)


def test_a_draft_under_way_is_no_problem_of_the_next_item(person: Any) -> None:
    page = person("cyd").open("digits")
    page.locator("#once").uncheck()
    held_back: list[Any] = []
    page.route("**/draft", lambda route: held_back.append(route))
    name = page.locator("#item-name").inner_text()
    with page.expect_request("**/draft"):
        page.locator(".label", has_text="5").click()
    page.locator("#submit").click()
    page.wait_for_timeout(300)
    for route in held_back:
        route.continue_()
    settled(page, name)
    expect(page.locator("#problem")).to_be_hidden()
    page.unroute("**/draft")
    # Skipped in the moment before a draft is sent: it is sent first.
    skipped = page.locator("#item-name").inner_text()
    with page.expect_request("**/draft"):
        page.locator(".label", has_text="6").click()
        page.locator("#skip").click()
    settled(page, skipped)
    page.locator("#once").check()


def test_who_looks_and_leaves_keeps_nobody_waiting(person: Any, portal: Portal) -> None:
    alone = make_flow(portal.cloud, TEXT_TEMPLATE)
    alone.start("alone", text="Good.", initialValue="Positive", confidence=0.5)
    for name in ("fay", "gus"):
        portal.cloud.run(
            "user", "add", name, "--role", "reviewer", "--group", alone.group, secret=PASSWORD
        )
    portal.flows["alone"] = alone
    fay, gus = person("fay"), person("gus")
    fay.open("alone")
    expect(fay.page.locator("#undo")).to_be_disabled()
    gus.page.goto(f"{portal.cloud.url}/review/{alone.id}")
    expect(gus.page.get_by_role("heading", name="Nothing waits here")).to_be_visible()
    fay.page.goto(f"{portal.cloud.url}/review")
    expect(fay.page.get_by_role("link", name="Begin with")).to_be_visible()
    page = gus.open("alone")
    page.locator("#once").uncheck()
    page.locator(".label", has_text="Neutral").click()
    expect(page.locator("#status")).to_have_text("Draft kept.")
    # What was worked on stays with who worked on it.
    page.goto(f"{portal.cloud.url}/review")
    expect(page.get_by_role("link", name="Begin with")).to_be_visible()
    fay.page.reload()
    expect(fay.page.get_by_role("link", name="Open with")).to_be_visible()
    del portal.flows["alone"]


def test_an_answer_taken_back_is_shown_though_the_item_before_it_is_not_given_back(
    person: Any, portal: Portal
) -> None:
    flow = make_flow(portal.cloud, TEXT_TEMPLATE)
    for number in range(3):
        flow.start(f"back-{number}", text="Good.", initialValue="Positive", confidence=number / 10)
    portal.cloud.run(
        "user", "add", "hal", "--role", "reviewer", "--group", flow.group, secret=PASSWORD
    )
    portal.flows["back"] = flow
    page = person("hal").open("back")
    for number in range(2):
        expect(page.locator("#item-name")).to_have_text(f"back-{number}")
        page.keyboard.press("Enter")
    expect(page.locator("#item-name")).to_have_text("back-2")
    page.route("**/release", lambda route: route.abort())
    with page.expect_request("**/release"):
        page.keyboard.press("u")
    expect(page.locator("#item-name")).to_have_text("back-1")
    expect(page.locator("#progress")).to_contain_text("1 answered")
    expect(page.locator("#problem")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.locator("#item-name")).to_have_text("back-2")
    del portal.flows["back"]


def test_the_grid_says_where_what_is_left_out_hides_the_rest(person: Any, portal: Portal) -> None:
    flow = make_flow(portal.cloud, TEXT_TEMPLATE)
    for number in range(100):
        flow.start(f"unsaid-{number}", text="Good.", confidence=0.1)
    flow.start("said", text="Good.", initialValue="Positive", confidence=0.9)
    portal.cloud.run(
        "user", "add", "ida", "--role", "reviewer", "--group", flow.group, secret=PASSWORD
    )
    portal.flows["hidden"] = flow
    page = person("ida").open("hidden", "/grid")
    expect(page.locator("#cards")).to_have_text("Nothing more can be accepted for now: review the "
                                                "other 100 first.")  # fmt: skip
    page.locator("#left").click()
    expect(page.locator("#item-name")).to_have_text("unsaid-0")
    del portal.flows["hidden"]


def test_json_is_shown_as_it_was_written(person: Any, portal: Portal) -> None:
    flow = make_flow(portal.cloud, TEXT_TEMPLATE)
    flow.start(
        "record", text='{"tweet":1234567890123456789,"price":10.0,"price":11}', weight=10.0,
        id=1234567890123456789, initialValue="Positive", confidence=0.9,
    )  # fmt: skip
    portal.cloud.run(
        "user", "add", "joe", "--role", "reviewer", "--group", flow.group, secret=PASSWORD
    )
    portal.flows["records"] = flow
    joe = person("joe")
    page = joe.open("records", "/grid")
    written = '{\n  "tweet": 1234567890123456789,\n  "price": 10.0,\n  "price": 11\n}'
    expect(page.locator(".snippet")).to_have_text(written)
    joe.screenshot("json-grid")
    page = joe.open("records")
    shown = page.get_by_role("region", name="The item, as JSON")
    assert shown.inner_text() == written
    page.get_by_text("The item's data").click()
    expect(page.locator(".about pre")).to_contain_text('"weight": 10.0,')
    expect(page.locator(".about pre")).to_contain_text('"id": 1234567890123456789')
    joe.screenshot("json")
    del portal.flows["records"]


def test_an_administrator_sees_teams_and_queues(person: Any, portal: Portal) -> None:
    portal.cloud.run("user", "add", "ada", "--role", "admin", secret=PASSWORD)
    ada = person("ada", {"width": 1400, "height": 1500})
    ada.page.get_by_role("link", name="Teams").click()
    expect(ada.page.get_by_role("heading", name="Teams and queues")).to_be_visible()
    digits = ada.page.get_by_role("row", name=portal.flow("digits").name).first
    expect(digits).to_contain_text("Read the digit")
    ada.check()
    ada.screenshot("teams")
    digits.get_by_role("link").click()
    expect(ada.page.get_by_role("heading", name="Agreement")).to_be_visible()


def test_script_in_an_items_data_stays_text(person: Any, portal: Portal) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
    flow = portal.flow("texts")
    flow.start("evil", text=evil, initialValue=evil, confidence=0.001)
    page = person("cyd").open("texts")
    expect(page.get_by_role("region", name="The item's text")).to_have_text(evil)
    expect(page.locator("#model")).to_contain_text("onerror")
    assert page.title() != "1"
    page.locator("#submit").click()
    expect(page.locator("#problem")).to_have_text("Choose a label first.")


def test_the_lead_sees_how_it_goes_and_exports(person: Any, portal: Portal) -> None:
    lea = person("lea", {"width": 1400, "height": 1500})
    page = lea.open("digits", "/lead")
    expect(page.get_by_role("heading", name="Agreement")).to_be_visible()
    for name in ("ana", "bob", "cyd"):
        expect(page.get_by_role("rowheader", name=name, exact=True)).to_be_visible()
    lea.check()
    lea.screenshot("lead")
    with page.expect_download() as started:
        page.get_by_role("link", name="JSON").click()
    rows = json.loads(Path(started.value.path()).read_text())
    zero = [row for row in rows if row["loop"] == "digit-000"]
    assert {row["label"] for row in zero} == {"0"}
    with page.expect_download() as started:
        page.get_by_role("link", name="CSV").click()
    assert Path(started.value.path()).read_text().startswith("loop,worker,label")


def test_a_reviewer_has_no_leads_page(person: Any, portal: Portal) -> None:
    ana = person("ana")
    page = ana.page
    answer = page.goto(f"{portal.cloud.url}/review/{portal.flow('digits').id}/lead")
    assert answer.status == 403
    answer = page.goto(f"{portal.cloud.url}/jobs/compilation")
    assert answer.status == 403


def test_what_was_entered_is_kept_while_the_server_is_away(person: Any, portal: Portal) -> None:
    bob = person("bob")
    page = bob.open("digits")
    name = page.locator("#item-name").inner_text()
    page.context.set_offline(True)
    page.keyboard.press("3")
    expect(page.locator("#problem")).to_contain_text("What you entered is kept")
    expect(page.locator(".label[aria-pressed=true]")).to_have_attribute("data-label", "3")
    page.context.set_offline(False)
    page.keyboard.press("Enter")
    settled(page, name)
    expect(page.locator("#problem")).to_be_hidden()
