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

from model_delivery_localcloud.review.blocks import form_fields
from model_delivery_localcloud.review.elements import (
    BUILT_IN,
    CLASSIFIERS,
    TASKS,
    categories_of,
    check_values,
    exclusion_of,
    is_of_own_page,
)
from model_delivery_localcloud.review.elements import FORM as FORM_TAG
from model_delivery_localcloud.review.json_text import indented
from model_delivery_localcloud.review.markup import SPACE, Node, parse_markup
from model_delivery_localcloud.review.reasons import missing_keys
from model_delivery_localcloud.review.template import TemplateRefused

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
    :raises TemplateRefused: the input is not what the template's element shows, an attribute of an
        element cannot be read, or an element of a built-in task type is not alone in its form
    """
    root = parse_markup(rendered)
    _check_values(root)
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
    if (
        not isinstance(chosen, list)
        or not chosen
        or not all(
            isinstance(each, str | int) and str(each).strip() in view["labels"] for each in chosen
        )
    ):
        return f"the answer must name a category under {name}.{member_name}"
    if len(chosen) > 1 and view["exclusion"] in chosen:
        return f"{view['exclusion']} excludes the other categories under {name}.{member_name}"
    return None


def _lone_task(root: Node) -> Node | None:
    """Return the task of a template that shows, asks and runs nothing else."""
    forms = _parts(root)
    tasks = _parts(forms[0]) if len(forms) == 1 and _is(forms[0], {FORM_TAG}) else []
    if len(tasks) != 1 or not _is(tasks[0], TASKS):
        return None
    handles = (name.startswith("on") for node in root.walk() for name in node.attributes)
    return None if any(handles) or _scripts(root) else tasks[0]


def _scripts(root: Node) -> bool:
    return any(node.tag == "script" and not _is_crowd_script(node) for node in root.walk())


def _check_values(root: Node) -> None:
    classifiers = [node for node in root.walk() if node.tag in CLASSIFIERS]
    for node in classifiers:
        try:
            check_values(node.attributes)
        except ValueError as error:
            raise TemplateRefused(f"<{node.tag}>: {error}") from error
    # A script may give it categories yet.
    if not _scripts(root):
        for node in classifiers:
            if not categories_of(node.attributes):
                raise TemplateRefused(f"<{node.tag}> has no categories: there is none to choose")


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
        if (part.strip(SPACE) if isinstance(part, str) else not _is_crowd_script(part))
    ]


def _is(part: Node | str, tags: Collection[str]) -> TypeGuard[Node]:
    return isinstance(part, Node) and part.tag in tags


def _is_crowd_script(node: Node) -> bool:
    return node.tag == "script" and _CROWD_SCRIPT in node.attributes.get("src", "")


def _classifier(task: Node) -> dict[str, Any] | None:
    labels = _labels(task)
    parts = _parts(task)
    plain = all(
        (_is(part, {_TARGET}) and part.attributes.keys() <= _UNSEEN)
        or (_is(part, _INSTRUCTIONS) and _is_text(part, _HELP))
        for part in parts
    )
    if labels is None or not plain or not is_of_own_page(set(task.attributes)):
        return None
    exclusion = exclusion_of(task.attributes) if task.tag.endswith("-multi-select") else None
    view = {
        "kind": CLASSIFY,
        "name": task.attributes.get("name") or task.tag,
        "multiple": task.tag.endswith("-multi-select"),
        "labels": list(dict.fromkeys([*labels, *([exclusion] if exclusion else [])])),
        "exclusion": exclusion,
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
            return {"text": indented(text), "json": True}
        except ValueError:
            pass  # it only looked like JSON
    return {"text": text}


def _labels(task: Node) -> list[str] | None:
    found = categories_of(task.attributes)
    if not all(isinstance(each, str | int) for each in found):
        return None
    return list(dict.fromkeys(str(each).strip() for each in found))


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
    return [
        {"header": node.attributes.get("header", ""), "text": node.text()}
        for tag in ("short-instructions", "full-instructions")
        for node in task.walk()
        if node.tag == tag and node.text()
    ]
