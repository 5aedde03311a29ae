"""Which page an item gets: one of the portal's own, or its template in a frame.

A template that holds nothing but one classifier over plain text or an image, or one of the elements
of the built-in task types, says no more than the portal's own page can show, with hotkeys, zoom and
a grid. Its answer has the layout that the element's has. Every other template runs as it is: what
it says, marks or asks beside that would be lost.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.forms import form
from model_delivery_engine.review.inferences import member

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.review.blocks import form_fields
from model_delivery_localcloud.review.markup import Node, parse_markup
from model_delivery_localcloud.review.reasons import missing_keys
from model_delivery_localcloud.review.template import BUILT_IN, TASKS, TemplateRefused
from model_delivery_localcloud.review.template import FORM as FORM_TAG

CLASSIFY = "classify"
MODERATE = "moderate"
FORM = "form"
FRAME = "frame"
TEXTRACT = "AWS/Textract/AnalyzeDocument/Forms/V1"
REKOGNITION = "AWS/Rekognition/DetectModerationLabels/Image/V3"
_CROWD_SCRIPT = "crowd-html-elements"
_IMAGES = frozenset({"crowd-image", "img"})
# What is the same as lines of text, and the attributes that change nothing of how it is seen.
_LINES = frozenset({"br", "div", "p"})
_HELP = _LINES | {"h1", "h2", "h3", "h4", "h5", "h6", "li", "ul"}
_UNSEEN = frozenset({"alt", "class", "height", "id", "lang", "src", "width"})
_INSTRUCTIONS = frozenset({"full-instructions", "short-instructions"})
_TARGET = "classification-target"


def view_of(rendered: str, content: Any) -> dict[str, Any]:
    """Return what a page needs to show an item; `{"kind": "frame"}` for a template of its own.

    :param rendered: the template with the item filled in
    :param content: the item's input
    :raises TemplateRefused: the input is not what the template's element shows, or an element of a
        built-in task type is not alone in its form
    """
    root = parse_markup(rendered)
    task = _lone_task(root)
    if task is None:
        _refuse_built_in(root)
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


def _lone_task(root: Node) -> Node | None:
    """Return the task of a template that shows, asks and runs nothing else."""
    forms = _parts(root)
    tasks = _parts(forms[0]) if len(forms) == 1 and _is(forms[0], {FORM_TAG}) else []
    if len(tasks) != 1 or not _is(tasks[0], TASKS):
        return None
    handles = (name.startswith("on") for node in root.walk() for name in node.attributes)
    scripts = (node.tag == "script" and not _is_crowd_script(node) for node in root.walk())
    return None if any(handles) or any(scripts) else tasks[0]


def _refuse_built_in(root: Node) -> None:
    task = root.first(*BUILT_IN)
    if task is not None:
        raise TemplateRefused(
            f"<{task.tag}> works only where it is all that its <{FORM_TAG}> holds, and that all of "
            "the template: move what stands beside it into its <short-instructions>"
        )


def _parts(node: Node) -> list[Node | str]:
    """Return what an element holds but for white space and AWS's script."""
    return [
        part
        for part in node.children
        if (part.strip() if isinstance(part, str) else not _is_crowd_script(part))
    ]


def _is(part: Node | str, tags: Collection[str]) -> TypeGuard[Node]:
    return isinstance(part, Node) and part.tag in tags


def _is_crowd_script(node: Node) -> bool:
    return node.tag == "script" and _CROWD_SCRIPT in node.attributes.get("src", "")


def _classifier(task: Node) -> dict[str, Any] | None:
    labels = _labels(task.attributes.get("categories", ""))
    parts = _parts(task)
    plain = all(
        (_is(part, {_TARGET}) and part.attributes.keys() <= _UNSEEN)
        or (_is(part, _INSTRUCTIONS) and _is_text(part, _HELP))
        for part in parts
    )
    if labels is None or not plain:
        return None
    view = {
        "kind": CLASSIFY,
        "name": task.attributes.get("name") or task.tag,
        "multiple": task.tag.endswith("-multi-select"),
        "labels": labels,
    }
    targets = [part for part in parts if _is(part, {_TARGET})]
    if "src" in task.attributes:
        return None if targets else {**view, "image": task.attributes["src"], "text": ""}
    if len(targets) != 1 or not _is_text(targets[0], _LINES | _IMAGES):
        return None
    images = [node for node in targets[0].walk() if node.tag in _IMAGES]
    text = targets[0].text()
    if len(images) > 1 or (images and text and not _is_caption(targets[0])):
        return None
    return {
        **view,
        "image": images[0].attributes.get("src") if images else None,
        "alt": images[0].attributes.get("alt", "") if images else "",
        **_text(text),
    }


def _is_text(node: Node, tags: Collection[str]) -> bool:
    """Tell whether nothing but text, in lines, is seen of an element that holds these at most."""
    return all(each.tag in tags and each.attributes.keys() <= _UNSEEN for each in node.walk())


def _is_caption(target: Node) -> bool:
    """Tell whether an image comes before all text, as the portal's own page shows them."""
    first = next(iter(_parts(target)), None)
    return isinstance(first, Node) and (first.tag in _IMAGES or _is_caption(first))


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
