"""Which page an item gets: one of the portal's own, or its template in a frame.

A template whose only task is one classifier, or one of the elements of the built-in task types,
says no more than the portal's own page can show, with hotkeys, zoom and a grid. Its answer has the
layout that the element's has. Every other template runs as it is.
"""

from collections.abc import Mapping
from typing import Any

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.forms import form
from model_delivery_engine.review.inferences import member

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.review.blocks import form_fields
from model_delivery_localcloud.review.markup import Node, parse_markup
from model_delivery_localcloud.review.reasons import missing_keys
from model_delivery_localcloud.review.template import INPUTS, LAYOUT, TASKS, TemplateRefused

CLASSIFY = "classify"
MODERATE = "moderate"
FORM = "form"
FRAME = "frame"
TEXTRACT = "AWS/Textract/AnalyzeDocument/Forms/V1"
REKOGNITION = "AWS/Rekognition/DetectModerationLabels/Image/V3"
_CROWD_SCRIPT = "crowd-html-elements"
# What a classification target may hold for the portal to show it as image and text.
_PLAIN = frozenset(
    {
        "b", "br", "code", "crowd-image", "div", "em", "h1", "h2", "h3", "h4", "i", "img", "li",
        "ol", "p", "pre", "span", "strong", "style", "u", "ul",
    }
)  # fmt: skip
_PAGE_LAYOUT = LAYOUT - {"crowd-button", "crowd-instructions", "crowd-tab", "crowd-tabs"}


def view_of(rendered: str, content: Any) -> dict[str, Any]:
    """Return what a page needs to show an item; `{"kind": "frame"}` for a template of its own.

    :param rendered: the template with the item filled in
    :param content: the item's input
    :raises TemplateRefused: the input is not what the template's element shows
    """
    root = parse_markup(rendered)
    task = _only_task(root)
    if task is None:
        return {"kind": FRAME}
    if task.tag == "crowd-textract-analyze-document":
        view = _form(task, content)
    elif task.tag == "crowd-rekognition-detect-moderation-labels":
        view = _moderation(task, content)
    else:
        view = _classifier(task)
    if view is None:
        return {"kind": FRAME}
    return {**view, "header": task.attributes.get("header", ""), "instructions": _help(task)}


def fault_in_answer(view: Mapping[str, Any], answer: Mapping[str, Any]) -> str | None:
    """Tell what is wrong with an answer of one of the portal's own pages, None if nothing."""
    if view["kind"] not in {CLASSIFY, MODERATE, FORM}:
        return None
    name = view["name"]
    given = answer.get(name)
    given = given if isinstance(given, Mapping) else {}
    if view["kind"] == FORM:
        try:
            form(b"", given)
        except (ReviewError, TypeError, ValueError, AttributeError):
            return f"the answer must have the form's blocks under {name}.blocks"
        return None
    if view["kind"] == MODERATE:
        labels, known = given.get("moderationLabels"), {each["name"] for each in view["labels"]}
        if not isinstance(labels, list) or not all(
            isinstance(each, Mapping) and str(each.get("name")) in known for each in labels
        ):
            return f"the answer must name labels that are shown under {name}.moderationLabels"
        return None
    member_name = "labels" if view["multiple"] else "label"
    value = given.get(member_name)
    chosen = value if view["multiple"] else [value]
    if not isinstance(chosen, list) or not all(
        isinstance(each, str | int) and str(each) in view["labels"] for each in chosen
    ):
        return f"the answer must name a category under {name}.{member_name}"
    return None


def _only_task(root: Node) -> Node | None:
    nodes = list(root.walk())
    tasks = [node for node in nodes if node.tag in TASKS]
    others = {node.tag for node in nodes if "-" in node.tag} - TASKS
    runs = any(
        node.tag == "script" and _CROWD_SCRIPT not in node.attributes.get("src", "")
        for node in nodes
    )
    if len(tasks) != 1 or runs or others & INPUTS or not others <= _PAGE_LAYOUT:
        return None
    return tasks[0]


def _classifier(task: Node) -> dict[str, Any] | None:
    labels = _labels(task.attributes.get("categories", ""))
    if labels is None:
        return None
    view = {
        "kind": CLASSIFY,
        "name": task.attributes.get("name") or task.tag,
        "multiple": task.tag.endswith("-multi-select"),
        "labels": labels,
    }
    if "src" in task.attributes:
        return {**view, "image": task.attributes["src"], "text": ""}
    target = task.first("classification-target")
    if target is None or any(node.tag not in _PLAIN for node in target.walk()):
        return None
    images = [node for node in target.walk() if node.tag in {"img", "crowd-image"}]
    if len(images) > 1:
        return None
    return {
        **view,
        "image": images[0].attributes.get("src") if images else None,
        "alt": images[0].attributes.get("alt", "") if images else "",
        **_text(target.text()),
    }


def _text(text: str) -> dict[str, Any]:
    if text[:1] in {"{", "["}:
        try:
            return {"text": "", "json": strict_json.loads(text)}
        except ValueError:
            pass  # it only looked like JSON
    return {"text": text}


def _labels(text: str) -> list[str] | None:
    for candidate in (text, text.replace("'", '"')):
        try:
            value = strict_json.loads(candidate)
        except ValueError:
            continue
        if isinstance(value, list) and all(isinstance(each, str | int) for each in value):
            return list(dict.fromkeys(str(each) for each in value))
    return None


def _form(task: Node, content: Any) -> dict[str, Any] | None:
    response = _response(content)
    if response is None:
        return None
    try:
        fields = form_fields(response)
    except (ReviewError, TypeError, ValueError, AttributeError) as error:
        # Whoever started the loop wrote the blocks: they may be anything.
        raise TemplateRefused(f"the form cannot be shown: {error}") from error
    return {
        "kind": FORM,
        "name": TEXTRACT,
        "image": task.attributes.get("src"),
        "fields": fields,
        "missing": missing_keys(content),
        "keys_fixed": "no-key-edit" in task.attributes,
    }


def _moderation(task: Node, content: Any) -> dict[str, Any] | None:
    response = _response(content)
    found = member(response, "moderationLabels") if response is not None else None
    if not isinstance(found, list):
        return None
    labels = [
        {
            "name": str(member(each, "name") or ""),
            "parent": str(member(each, "parentName") or ""),
            "confidence": member(each, "confidence"),
        }
        for each in found
        if isinstance(each, Mapping)
    ]
    return {
        "kind": MODERATE,
        "name": REKOGNITION,
        "image": task.attributes.get("src"),
        "labels": labels,
    }


def _response(content: Any) -> Mapping[str, Any] | None:
    for name in ("selectedAiServiceResponse", "aiServiceResponse"):
        response = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(response, Mapping):
            return response
    return None


def _help(task: Node) -> list[dict[str, str]]:
    found = []
    for tag in ("short-instructions", "full-instructions"):
        node = task.first(tag)
        if node is not None and node.text():
            found.append({"header": node.attributes.get("header", ""), "text": node.text()})
    return found
