import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import ReportError
from model_delivery_engine.report import render_report


class Page(HTMLParser):
    """Collects the tags and every address that a page would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]


@pytest.fixture
def delivery(linear_bundle: Bundle) -> dict[str, Any]:
    return {
        "run_id": "manual__1",
        "manifest": json.loads(linear_bundle.manifest.to_json()),
        "bundle_digest": "sha256:" + "a" * 64,
        "evaluation": {
            "n": 50,
            "correct": 49,
            "accuracy": 0.98,
            "interval_low": 0.895,
            "interval_high": 0.9965,
            "errors": 0,
            "confusion": {"0": {"0": 20}, "1": {"1": 29, "0": 1}},
        },
        "gate": {"passed": True, "reasons": [], "min_accuracy": 0.85},
        "batch": {"records": 50, "ok": 50, "errors": 0},
        "deployment": {"device": "edge-1", "status": "COMPLETED"},
        "stages": [
            {"name": "compile", "seconds": 1.5, "state": "success", "details": {"job": "j-1"}},
            {"name": "deploy", "seconds": None, "state": "failed"},
        ],
    }


def test_a_report_stands_by_itself(delivery: dict[str, Any]) -> None:
    html = render_report(delivery)
    page = Page(html)
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert all(address.startswith(("#", "data:image/png")) for address in page.addresses)


def test_a_report_says_what_happened(delivery: dict[str, Any]) -> None:
    html = render_report(delivery)
    for text in ("manual__1", "passed", "98.0%", "89.5%", "edge-1", "COMPLETED", "j-1", "1.50 s"):
        assert text in html


def test_a_gate_that_did_not_pass_says_why(delivery: dict[str, Any]) -> None:
    delivery["gate"] = {"passed": False, "reasons": ["accuracy 0.8 < 0.9"], "min_accuracy": 0.9}
    html = render_report(delivery)
    assert "not passed" in html
    assert "accuracy 0.8 &lt; 0.9" in html


def test_the_same_delivery_gives_the_same_page(delivery: dict[str, Any]) -> None:
    assert render_report(delivery) == render_report(delivery)


def test_everything_is_escaped(delivery: dict[str, Any]) -> None:
    attack = '"><script>alert(1)</script> $x^2$ -->'
    delivery |= {"title": attack, "run_id": attack, "deployment": {attack: attack}}
    delivery["stages"] = [{"name": attack, "seconds": 1, "state": attack}]
    delivery["evaluation"]["confusion"] = {attack: {attack: 1}}
    html = render_report(delivery)
    assert "<script" not in html
    assert Page(html).tags.count("svg") == 4
    svg = html[html.index("<svg") : html.index("</svg>") + 6]
    ET.fromstring(svg)


@pytest.mark.parametrize(
    "section", ["manifest", "evaluation", "gate", "batch", "deployment", "stages"]
)
def test_each_section_may_be_left_out(delivery: dict[str, Any], section: str) -> None:
    del delivery[section]
    assert "manual__1" in render_report(delivery)


def test_a_run_that_failed_at_once_still_has_a_report() -> None:
    assert "manual__2" in render_report({"run_id": "manual__2"})


def test_a_missing_field_is_named(delivery: dict[str, Any]) -> None:
    del delivery["evaluation"]["accuracy"]
    with pytest.raises(ReportError, match="manual__1 cannot be drawn: a section lacks 'accuracy'"):
        render_report(delivery)
    with pytest.raises(ReportError, match="no run_id"):
        render_report({})


def test_a_missing_field_of_the_page_is_an_error_too(delivery: dict[str, Any]) -> None:
    del delivery["batch"]["ok"]
    with pytest.raises(ReportError, match="ok"):
        render_report(delivery)
