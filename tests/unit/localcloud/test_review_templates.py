"""Templates, what they may name, and which page an item gets."""

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from model_delivery.task_templates import CLASSIFY_IMAGE, CORRECT_FORM
from model_delivery_localcloud.portal.media import image_type
from model_delivery_localcloud.portal.template_frame import document
from model_delivery_localcloud.review import liquid_limits
from model_delivery_localcloud.review.facts import as_label, facts_of, text_for_reviewers
from model_delivery_localcloud.review.reasons import reasons_of
from model_delivery_localcloud.review.template import (
    TemplateRefused,
    check_template,
    object_uri,
    render_template,
)
from model_delivery_localcloud.review.views import fault_in_answer, view_of
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
FORM = "<crowd-form>{}</crowd-form>"


def view(content: str, **task_input: Any) -> dict[str, Any]:
    return view_of(render_template(content, task_input, lambda uri: f"/media/{uri}"), task_input)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (FORM.format("<crowd-slider></crowd-slider>"), "no element <crowd-slider>"),
        (FORM.format('<input name="scan" TYPE="File">'), "an <input type=file>"),
        (
            FORM.format("<crowd-input name=a multi-line></crowd-input>"),
            "no attribute multi-line; it",
        ),
        (
            FORM.format("<crowd-tabs {% if x %}header=a{% endif %}>"),
            "<crowd-tabs> has no attribute h",
        ),
        (
            FORM.format("<crowd-classifier overlay='{}'>"),
            "<crowd-classifier> has no attribute over",
        ),
        (
            FORM.replace(
                "{}", "<crowd-image-classifier overlay='{semanticSegmentation: {src: \"x\"}}'>"
            ),
            "<crowd-image-classifier>: localcloud draws no overlay but { boundingBox",
        ),
        (
            FORM.format("<crowd-classifier-multi-select exclusion-category='None'>"),
            "exclusion-category must be",
        ),
        (FORM.format("<x-Evil></x-Evil><crowd-line>"), "<crowd-line>, <x-evil>"),
        ("<p>nothing to fill in</p>", "no <crowd-form>"),
        (FORM.format("{% if %}"), "is not Liquid"),
        (FORM.format("{{ task.input.x | made_up }}"), "unknown filter 'made_up'"),
    ],
)
def test_a_template_that_cannot_work_is_refused_by_name(content: str, said: str) -> None:
    with pytest.raises(TemplateRefused, match=said):
        check_template(content)


def test_what_liquid_writes_within_an_element_is_no_attribute() -> None:
    check_template(
        '<crowd-form answer-format="flatten-objects"><crowd-checkbox data-row="1" aria-label="x" '
        'onclick="go()" style="" {% if task.input.on == "yes" %}checked{% endif %} '
        'name="{{ task.input.name | replace: "a", "b" }}"></crowd-checkbox></crowd-form>'
    )


def test_a_template_reads_no_file() -> None:
    with pytest.raises(TemplateRefused, match="does not render"):
        render_template(FORM.format("{% include '/etc/passwd' %}"), {}, str)


def test_a_template_that_never_ends_is_stopped() -> None:
    loops = FORM.format("{% for a in (1..9999) %}{% for b in (1..9999) %}x{% endfor %}{% endfor %}")
    with pytest.raises(TemplateRefused, match="does not render"):
        render_template(loops, {}, str)


@pytest.mark.parametrize(
    "expression",
    [
        "{{ (1..30000000) | join }}",
        "{{ (1..task.input.n) | join: ',' }}",
        "{{ 'x' " + "| replace: 'x', 'xxxxxxxxxx' " * 12 + "}}",
        "{% assign x = 9 %}{% for i in (1..64) %}{% assign x = x | times: x %}{% endfor %}",
        "{{ 'now' | date: '%0999999999d' }}",
        "{% assign x = 'xxxxxxxxxx' | split: '' %}"
        "{% for i in (1..64) %}{% assign x = x | concat: x %}{% endfor %}",
    ],
)
def test_filters_take_neither_all_time_nor_all_memory(expression: str) -> None:
    before = time.monotonic()
    with pytest.raises(TemplateRefused, match="does not render"):
        render_template(FORM.replace("{}", expression), {"n": 10**9}, str)
    assert time.monotonic() - before < 2


@pytest.mark.parametrize(
    "block", ["{% if i %}{% endif %}", "{{ i }}", "{% unless i %}{% endunless %}"]
)
@pytest.mark.parametrize("loop", ["for", "tablerow"])
def test_blocks_take_not_all_time(monkeypatch: pytest.MonkeyPatch, loop: str, block: str) -> None:
    monkeypatch.setattr(liquid_limits, "SECONDS", 0.2)
    content = f"{{% {loop} i in (1..10000) %}}{block * 200}{{% end{loop} %}}"
    before = time.monotonic()
    with pytest.raises(TemplateRefused, match="it takes longer than"):
        render_template(FORM.replace("{}", content), {}, str)
    assert time.monotonic() - before < 2


def test_filters_within_limits_do_what_they_did() -> None:
    content = FORM.replace(
        "{}",
        "{{ (1..5) | join: '-' }} {{ 'aXbX' | replace: 'X', '.' }} {{ '2026-01-02' | date: '%Y' }}"
        " {{ task.input.labels | join: '/' }}",
    )
    assert "1-2-3-4-5 a.b. 2026 x/y" in render_template(content, {"labels": ["x", "y"]}, str)


def test_values_are_escaped_and_json_is_safe_anywhere() -> None:
    content = FORM.format('<p title="{{ task.input.x }}">{{ task.input.y | to_json }}</p>')
    evil = '"><script>alert(1)</script>'
    text = render_template(content, {"x": evil, "y": [evil]}, str)
    assert "<script" not in text
    assert "\\u003cscript" in text
    raw = render_template(FORM.format("{{ task.input.x | skip_autoescape }}"), {"x": "<b>"}, str)
    assert "<b>" in raw


def test_objects_are_named_plainly() -> None:
    assert object_uri("s3://bucket/a/b c.png") == "s3://bucket/a/b c.png"
    assert object_uri("http://s3.amazonaws.com/bucket/a.png") == "s3://bucket/a.png"


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "s3://bucket/../other/key",
        "s3://bucket/a/./b", "s3://bucket", "s3:///key", "s3://user@bucket/key", "s3://b/k?x=1",
        "s3://b/k#x", "s3://b/a\\..\\b", "https://s3.amazonaws.com.evil.example/b/k", "b/k", "",
        "s3://b/k\0.png", "javascript:alert(1)", "//s3.amazonaws.com/b/k",
    ],
)  # fmt: skip
def test_path_tricks_in_uris_are_refused(uri: str) -> None:
    with pytest.raises(TemplateRefused):
        object_uri(uri)


def test_a_lone_classifier_gets_the_portals_own_page() -> None:
    content = FORM.format(
        '<crowd-classifier name="c" categories="{{ task.input.labels | to_json | escape }}">'
        '<classification-target><img src="{{ task.input.uri | grant_read_access }}">'
        "<p>{{ task.input.text }}</p></classification-target></crowd-classifier>"
    )
    found = view(content, labels=["a", "b"], uri="s3://b/k", text="<i>")
    assert (found["kind"], found["labels"], found["text"]) == ("classify", ["a", "b"], "<i>")
    assert found["image"] == "/media/s3://b/k"
    as_json = view(
        FORM.format(
            "<crowd-classifier name=c categories=\"['x']\"><classification-target>"
            "{{ task.input.o }}</classification-target></crowd-classifier>"
        ),
        o={"amount": 3},
    )
    assert (as_json["json"], as_json["text"]) == (True, '{\n  "amount": 3\n}')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"tweet":1234567890123456789,"price":10.0,"10":"x","2":1.10E+2}',
         '{\n  "tweet": 1234567890123456789,\n  "price": 10.0,\n  "10": "x",\n  "2": 1.10E+2\n}'),
        ('{"a": 1, "a": {"b": 2, "b": []}}',
         '{\n  "a": 1,\n  "a": {\n    "b": 2,\n    "b": []\n  }\n}'),
        ("[1234567890123456789, -0, {}, null, true]",
         "[\n  1234567890123456789,\n  -0,\n  {},\n  null,\n  true\n]"),
        ('["1.0", "a\\n", "\\u00e4"]', '[\n  "1.0",\n  "a\\n",\n  "ä"\n]'),
        ("[1] says who", "[1] says who"),
    ],
)  # fmt: skip
def test_json_is_shown_as_it_was_written(text: str, shown: str) -> None:
    content = (
        "<crowd-classifier name=c categories='[\"x\"]'><classification-target>"
        "{{ task.input.text }}</classification-target></crowd-classifier>"
    )
    assert view(FORM.replace("{}", content), text=text)["text"] == shown


def test_an_items_data_is_shown_as_it_was_written_but_for_what_is_hidden() -> None:
    text = '{"id":12345678901234567890,"known\\u0041nswer":"1","x":{"knownAnswer":1.0}}'
    assert text_for_reviewers(text) == (
        '{\n  "id": 12345678901234567890,\n  "x": {\n    "knownAnswer": 1.0\n  }\n}'
    )


@pytest.mark.parametrize(
    "inside",
    [
        "<crowd-input name=a></crowd-input>",
        "<crowd-classifier name=a categories='[\"x\"]'><classification-target><video></video>"
        "</classification-target></crowd-classifier>",
        "<crowd-classifier name=a categories='[\"x\"]'><classification-target>t"
        "</classification-target></crowd-classifier><script>1</script>",
        '<crowd-classifier name=a categories=\'[{"name": "x"}]\'><classification-target>t'
        "</classification-target></crowd-classifier>",
        "<crowd-classifier name=a></crowd-classifier><script>offer()</script>",
    ],
)
def test_other_templates_run_in_their_frame(inside: str) -> None:
    assert view(FORM.replace("{}", inside))["kind"] == "frame"


@pytest.mark.parametrize("beside", ["", "<p>Beside.</p>"])
@pytest.mark.parametrize("categories", ["", "categories='[]'", "categories=no", "categories='{}'"])
def test_a_classifier_without_categories_is_said_to_be_wrong(categories: str, beside: str) -> None:
    task = f"<crowd-classifier name=a {categories}><classification-target>t</classification-target>"
    with pytest.raises(TemplateRefused, match="<crowd-classifier> has no categories"):
        view(FORM.replace("{}", task + "</crowd-classifier>" + beside))


def classifier(target: str, more: str = "") -> str:
    return (
        "<crowd-classifier name=a categories='[\"x\"]'><classification-target>"
        f"{target}</classification-target>{more}</crowd-classifier>"
    )


@pytest.mark.parametrize(
    "content",
    [
        FORM.format("<h2>The question</h2>" + classifier("t")),
        FORM.format("Does it fit?" + classifier("t")),
        FORM.format(classifier("t") + "<textarea name=why required></textarea>"),
        FORM.format("<div>" + classifier("t") + "</div>"),
        FORM.format(classifier("t") + "<img src=/reference.png>"),
        "<p>Read this first.</p>" + FORM.format(classifier("t")),
        FORM.format(classifier("t")) + "<style>p { color: red }</style>",
        "<crowd-form onsubmit='check()'>" + classifier("t") + "</crowd-form>",
        FORM.format(classifier("<pre>if x:\n    y</pre>")),
        FORM.format(classifier("The <strong>bank</strong> of the bank")),
        FORM.format(classifier("The <span style='background: yellow'>bank</span>")),
        FORM.format(classifier("<p style='color: red'>wrong</p>")),
        FORM.format(classifier("<ol><li>first</li></ol>")),
        FORM.format(classifier("Like this: <img src=/a.png> or not")),
        FORM.format(classifier("<img src=/a.png><img src=/b.png>")),
        FORM.format(classifier("t", "<input name=more>")),
        FORM.format(classifier("t", "<short-instructions><img src=/a.png></short-instructions>")),
        FORM.format(classifier("t", "<full-instructions><table></table></full-instructions>")),
    ],
)  # fmt: skip
def test_what_the_portals_own_page_would_not_show_or_ask_has_its_frame(content: str) -> None:
    assert view(content)["kind"] == "frame"


@pytest.mark.parametrize(
    "attributes",
    [
        "initial-value=x", "disabled", "style='color: red'", "title=x",
        "overlay=\"{ 'boundingBox': { value: [{ left: 1, top: 2, width: 3, height: 4, }], }, }\"",
    ],
)  # fmt: skip
def test_an_attribute_that_the_portals_own_page_does_not_show_has_its_frame(
    attributes: str,
) -> None:
    task = "<crowd-image-classifier src=x categories='[\"x\"]' {}></crowd-image-classifier>"
    assert view(FORM.format(task.format("data-a=1 id=b")))["kind"] == "classify"
    assert view(FORM.replace("{}", task.replace("{}", attributes)))["kind"] == "frame"


def test_an_overlay_that_cannot_be_drawn_is_said_to_be_wrong() -> None:
    task = "<crowd-image-classifier src=x categories='[1]' overlay='{{ task.input.o | to_json }}'>"
    with pytest.raises(TemplateRefused, match="draws no overlay but"):
        view(FORM.replace("{}", task), o={"boundingBox": {"value": [{"left": 1}]}})


def test_none_of_the_above_excludes_the_others_and_without_it_one_is_chosen() -> None:
    task = (
        "<crowd-classifier-multi-select name=c categories=\"['it\\'s', 'b']\" "
        "exclusion-category=\"{ text: 'None' }\"><classification-target>t</classification-target>"
    )
    found = view(FORM.replace("{}", task))
    assert (found["labels"], found["exclusion"]) == (["it's", "b", "None"], "None")
    assert fault_in_answer(found, {"c": {"labels": ["it's", "b"]}}) is None
    assert fault_in_answer(found, {"c": {"labels": ["None"]}}) is None
    assert "excludes" in str(fault_in_answer(found, {"c": {"labels": ["b", "None"]}}))
    assert "must name" in str(fault_in_answer(found, {"c": {"labels": []}}))


def test_lines_a_caption_and_instructions_in_words_keep_the_portals_own_page() -> None:
    help_in_words = "<short-instructions><h3>How</h3><ul><li>Look</li></ul></short-instructions>"
    content = FORM.format(classifier("<p>one</p><p>two</p>", help_in_words))
    script = "<script src='https://assets.crowd.aws/crowd-html-elements.js'></script>"
    found = view(f"<!-- ours -->\n{script}\n{content}\n")
    assert (found["kind"], found["text"]) == ("classify", "one\ntwo")
    assert found["instructions"][0]["text"] == "How\nLook"
    found = view(FORM.format(classifier("<div><img src=/a.png class=wide></div><p>A cow</p>")))
    assert (found["kind"], found["image"], found["text"]) == ("classify", "/a.png", "A cow")


def test_code_keeps_its_indentation_and_all_instructions_are_shown() -> None:
    more = (
        "<short-instructions>one</short-instructions><short-instructions>two</short-instructions>"
    )
    found = view(FORM.format(classifier("if x:<br>&nbsp;&nbsp;return 1<br> return 2 ", more)))
    assert (found["kind"], found["text"]) == ("classify", "if x:\n\xa0\xa0return 1\nreturn 2")
    assert [each["text"] for each in found["instructions"]] == ["one", "two"]


def test_white_space_at_a_categorys_ends_makes_it_no_other() -> None:
    found = view(FORM.replace("{}", classifier("t").replace('["x"]', '[" cat ", "cat", "dog"]')))
    assert found["labels"] == ["cat", "dog"]
    assert fault_in_answer(found, {"a": {"label": "cat "}}) is None
    assert as_label({"a": {"label": "cat "}}) == "cat"


def test_an_element_of_a_built_in_task_type_is_alone_or_said_to_be_wrong() -> None:
    alone = FORM.format("<crowd-textract-analyze-document></crowd-textract-analyze-document>")
    content = {"selectedAiServiceResponse": {"blocks": []}}
    assert view(alone, **content)["kind"] == "form"
    with pytest.raises(TemplateRefused, match="<crowd-textract-analyze-document> works only where"):
        view(f"<h1>Read the form</h1>{alone}", **content)


def test_the_provider_and_the_docs_give_templates_for_the_portals_own_page() -> None:
    documented = (ROOT / "docs/operators/create_human_task_ui.md").read_text()
    task_input = {"labels": ["1"], "taskObject": "s3://b/k"}
    for content in (CLASSIFY_IMAGE.content, documented.split('"""')[1]):
        assert view(content, **task_input)["kind"] == "classify"
    forms = {"taskObject": "s3://b/k", "selectedAiServiceResponse": {"blocks": []}}
    assert view(CORRECT_FORM.content, **forms)["kind"] == "form"


def test_the_frames_document_has_our_script_in_place_of_the_crowds() -> None:
    text = document('<script src="https://assets.crowd.aws/crowd-html-elements.js"></script><p>x')
    assert "assets.crowd.aws" not in text
    assert "/static/crowd-form.js" in text


def png(width: int, height: int) -> bytes:
    """Return a picture of a few bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_images_are_known_by_what_they_are() -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, kind)
        assert image_type(buffer.getvalue()) == f"image/{kind.lower()}"


def test_expressions_of_any_depth_are_taken_or_refused() -> None:
    refused = []
    for depth in range(100, 1_500, 50):
        try:
            check_template(FORM.format("{{ " + "a[" * depth + "0" + "]" * depth + " }}"))
        except TemplateRefused as error:
            refused.append(str(error))
    assert any("nested too deeply" in each for each in refused)


def gif(frames: int, blocks: bytes = b"\2\x44\1") -> bytes:
    """Return a GIF of a pixel."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2" + blocks + b"\0"
    return screen + frame * frames + b";"


def test_a_gif_of_very_many_frames_or_blocks_is_told_without_going_through_it() -> None:
    assert image_type(gif(100)) == "image/gif"
    began = time.process_time()
    assert image_type(gif(101)) is None
    assert image_type(gif(1_500_000)) is None
    assert image_type(gif(1, b"\1\0" * 15_000_000)) is None
    # A comment of blocks of a byte, and what stands where a frame should be.
    assert image_type(gif(0)[:-1] + b"!\xfe" + b"\1\0" * 15_000_000) is None
    assert image_type(gif(0)[:-1] + b"\1" * 30_000_000 + gif(1)[19:]) is None
    assert time.process_time() - began < 2.0


def compressed(kind: str, width: int, height: int) -> bytes:
    """Return an image of one colour, which is small whatever its size."""
    buffer = io.BytesIO()
    Image.new("L" if kind == "JPEG" else "P", (width, height)).save(buffer, kind)
    return buffer.getvalue()


def large(body: bytes, size: bytes, claimed: bytes) -> bytes:
    """Return an image whose header claims another size."""
    assert body.count(size) == 1
    return body.replace(size, claimed)


# 30 by 40 pixels as each format writes it, and 30,000 by 40,000.
JPEG_BOMB = large(
    compressed("JPEG", 30, 40), struct.pack(">HH", 40, 30), struct.pack(">HH", 40_000, 30_000)
)
GIF_BOMB = compressed("GIF", 30, 40).replace(
    struct.pack("<HH", 30, 40), struct.pack("<HH", 30_000, 40_000)
)
# Lossless, one colour: 16383 by 16383 pixels in 34 bytes.
WEBP_BOMB = bytes.fromhex("524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03")


@pytest.mark.parametrize(
    "body",
    [
        JPEG_BOMB, GIF_BOMB, WEBP_BOMB, png(60_000, 60_000), png(20_000, 4_000), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html><script>alert(1)</script>", b"%PDF-1.7", b"", b"\x89PNG\r\n\x1a\n",
    ],
)  # fmt: skip
def test_bombs_and_what_is_no_image_are_not_shown(body: bytes) -> None:
    assert image_type(body) is None


@pytest.mark.parametrize(
    ("content", "confidence", "label"),
    [
        ({"confidence": 0.4, "initialValue": "7"}, 0.4, "7"),
        ({"confidence": 40}, 0.4, None),
        ({"confidence": True, "initialValue": 7}, None, "7"),
        ({"confidence": -3, "initialValue": {"label": " x "}}, 0.0, "x"),
        ({"aiServiceResponse": {"moderationLabels": [{"confidence": 90}, {"Confidence": 60}]}},
         0.6, None),
        ({"selectedAiServiceResponse": {"blocks": [{"confidence": 0.8}, {"confidence": 40}]}},
         0.008, None),
        ([1, 2], None, None),
    ],
)  # fmt: skip
def test_facts_of_an_input(content: Any, confidence: float | None, label: str | None) -> None:
    facts = facts_of(content)
    assert facts.confidence == (None if confidence is None else pytest.approx(confidence))
    assert facts.model_label == label


def test_a_stored_label_has_a_length_and_no_null_character() -> None:
    assert as_label({"digit": {"label": "a\0b"}}) == "a\ufffdb"
    assert as_label({"text": "x" * 1000}) == "x" * 256


def test_why_an_item_is_here() -> None:
    record = {
        "Conditions": [
            {
                "EvaluationResult": True,
                "Or": [
                    {"ConditionType": "ModerationLabelConfidenceCheck", "EvaluationResult": True,
                     "ConditionParameters": {"ModerationLabelName": "Suggestive",
                                             "ConfidenceLessThan": 98}},
                    {"ConditionType": "Sampling", "EvaluationResult": False},
                ],
            },
            "nonsense",
        ]
    }  # fmt: skip
    assert reasons_of({"humanTaskActivationConditionResults": record}) == [
        "Moderation label confidence check: moderation label name Suggestive, "
        "confidence less than 98"
    ]
