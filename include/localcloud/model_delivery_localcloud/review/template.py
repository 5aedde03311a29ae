"""Worker task templates: Liquid around `crowd-*` elements.

Source: "Create Custom Worker Task Templates" and "Crowd HTML Elements Reference" of the SageMaker
developer guide. Like there, values are escaped unless a template says `skip_autoescape`, and
`grant_read_access` turns an object's URI into one that the reviewer's browser can open.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

from liquid import BoundTemplate, Environment
from liquid.exceptions import LiquidError, UnknownFilterError
from markupsafe import Markup

from model_delivery_localcloud.errors import LocalcloudError
from model_delivery_localcloud.review.elements import (
    ATTRIBUTES,
    CLASSIFIERS,
    FORM,
    check_values,
    unknown_attributes,
)
from model_delivery_localcloud.review.liquid_input import as_json, liquid_input
from model_delivery_localcloud.review.liquid_limits import (
    LimitExceeded,
    limit_blocks,
    limited,
    time_limit,
)

_TOO_DEEP = "the template's Liquid is nested too deeply"
_LIQUID = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
_S3_HOST = "s3.amazonaws.com"
Grant = Callable[[str], str]


class TemplateRefused(LocalcloudError):
    """A template that reviewers could not work with; the message names what is wrong."""


class _Environment(Environment):
    """Liquid with limits: a template is somebody's program, and runs for every item."""

    context_depth_limit = 20
    loop_iteration_limit = 10_000
    output_stream_limit = 8 * 1024 * 1024
    local_namespace_limit = 4 * 1024 * 1024


def check_template(content: str) -> None:
    """Raise TemplateRefused unless it parses, has a form, and elements and attributes we have."""
    if "\0" in content:
        raise TemplateRefused("the template holds a null character, which is no part of HTML")
    template = _parsed(content)
    try:
        with time_limit():
            template.render(task={"input": {}}, _grant=str)
    except LimitExceeded as error:
        raise TemplateRefused(f"the template does not render: {_line(error)}") from error
    except UnknownFilterError as error:
        raise TemplateRefused(f"the template does not render: {_line(error)}") from error
    except LiquidError:
        pass  # it may need an input that is not there yet
    except RecursionError as error:
        raise TemplateRefused(_TOO_DEEP) from error
    found = _Elements.of(content)
    unknown = sorted(found.custom - ATTRIBUTES.keys())
    if unknown:
        names = ", ".join(f"<{name}>" for name in unknown)
        raise TemplateRefused(
            f"localcloud has no element {names}; it has: {', '.join(sorted(ATTRIBUTES))}"
        )
    _check_attributes(content)
    if found.files:
        raise TemplateRefused(
            "the template has an <input type=file>: an answer is JSON, and carries no file"
        )
    if FORM not in found.custom:
        raise TemplateRefused(f"the template has no <{FORM}>: nobody could submit an answer")


def render_template(content: str, task_input: Any, grant: Grant) -> str:
    """Return the template with a human loop's input filled in.

    :param grant: returns the URL under which a browser may read an object
    :raises TemplateRefused: Liquid cannot render it with this input
    """
    return _render(content, {"task": {"input": liquid_input(task_input)}}, grant)


def object_uri(text: str) -> str:
    """Return the `s3://` URI that a template means; raises TemplateRefused for any other place.

    Templates of Augmented AI write objects as `s3://bucket/key` or
    `http(s)://s3.amazonaws.com/bucket/key`.
    """
    try:
        parts = urlsplit(text.strip())
    except ValueError as error:
        raise TemplateRefused(f"{text[:200]!r} is not the URI of an object: {error}") from error
    if parts.scheme == "s3":
        bucket, key = parts.netloc, parts.path.lstrip("/")
    elif parts.scheme in {"http", "https"} and parts.netloc == _S3_HOST:
        bucket, _, key = parts.path.lstrip("/").partition("/")
    else:
        raise TemplateRefused(f"{text[:200]!r} is not the URI of an object: s3://bucket/key")
    odd = any(part in {".", ".."} for part in key.split("/")) or "\\" in key or "\0" in key
    if not bucket or not key or odd or parts.query or parts.fragment or "@" in bucket:
        raise TemplateRefused(f"{text[:200]!r} names no object plainly: use s3://bucket/key")
    return f"s3://{bucket}/{key}"


def _check_attributes(content: str) -> None:
    # Of what a tag or an expression of Liquid holds, nothing is an attribute.
    for tag, attributes in _Elements.of(_LIQUID.sub(" ", content)).crowd:
        unknown = unknown_attributes(tag, set(attributes))
        if unknown:
            known = ", ".join(sorted(ATTRIBUTES[tag])) or "none of its own"
            raise TemplateRefused(
                f"localcloud's <{tag}> has no attribute {', '.join(unknown)}; it has: {known}"
            )
    for tag, attributes in _Elements.of(content).crowd:
        # What Liquid fills in is looked at with each item.
        fixed = {name: value for name, value in attributes.items() if not _LIQUID.search(value)}
        if tag in CLASSIFIERS:
            try:
                check_values(fixed)
            except ValueError as error:
                raise TemplateRefused(f"<{tag}>: {error}") from error


def _render(content: str, values: dict[str, Any], grant: Grant) -> str:
    try:
        with time_limit():
            return str(_parsed(content).render(**values, _grant=grant))
    except TemplateRefused:
        raise
    except Exception as error:
        # Not Liquid's errors alone: a template is somebody's program, over somebody else's data.
        raise TemplateRefused(f"the template does not render: {_line(error)}") from error


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


@lru_cache(maxsize=64)
def _parsed(content: str) -> BoundTemplate:
    try:
        return _environment().from_string(content)
    except LiquidError as error:
        raise TemplateRefused(f"the template is not Liquid: {_line(error)}") from error
    except RecursionError as error:
        raise TemplateRefused(_TOO_DEEP) from error


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(autoescape=True)
    environment.filters = limited(environment.filters)
    limit_blocks(environment)
    environment.add_filter("to_json", as_json)
    environment.add_filter("skip_autoescape", Markup)
    environment.add_filter("grant_read_access", _GrantReadAccess())
    return environment


class _GrantReadAccess:
    """The filter whose grant comes with each rendering."""

    with_context = True

    def __call__(self, value: object, *, context: Any) -> str:
        grant: Grant = context.resolve("_grant")
        # Liquid has escaped a captured text: the URI is what it was before.
        text = value.unescape() if isinstance(value, Markup) else str(value)
        return grant(text)


class _Elements(HTMLParser):
    """Collects the custom elements of a template, Liquid tags and all."""

    def __init__(self) -> None:
        super().__init__()
        self.custom: set[str] = set()
        self.crowd: list[tuple[str, dict[str, str]]] = []
        self.files = False

    @classmethod
    def of(cls, content: str) -> "_Elements":
        """Return what a template has."""
        found = cls()
        found.feed(content)
        found.close()
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "-" in tag:
            self.custom.add(tag)
        if tag in ATTRIBUTES:
            self.crowd.append((tag, {name: value or "" for name, value in attrs}))
        kind = dict(attrs).get("type") or ""
        self.files |= tag == "input" and kind.lower() == "file"
