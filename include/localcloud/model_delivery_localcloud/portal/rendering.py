"""Pages from templates, with the headers that keep them to themselves."""

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from model_delivery_localcloud.clock import now_ms, to_datetime

FOLDER = Path(__file__).parent
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Renderer:
    """Renders the templates of this folder; everything in them is escaped."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            moment=_moment, ago=_ago, age=_age, digest=_digest, size=_size, span=_span
        )

    def page(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        """Return a template as a page, with who asks for it and the session's form token."""
        user = getattr(request.state, "user", None)
        text = self._templates.get_template(name).render(
            user=user.name if user else None,
            role=user.role if user else "",
            csrf=csrf_token(request),
            path=request.url.path,
            **values,
        )
        return HTMLResponse(text, status_code=status, headers=SECURITY_HEADERS)


def csrf_token(request: Request) -> str:
    """Return the token that forms and calls of this session carry."""
    return str(request.session.setdefault("csrf", secrets.token_urlsafe(24)))


def _moment(value: int | None) -> str:
    return "-" if value is None else _utc(to_datetime(value))


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _ago(value: int | None) -> str:
    if value is None:
        return "never"
    return f"{_span(now_ms() - value)} ago"


def _age(value: int | None) -> str:
    return _span(None if value is None else now_ms() - value)


def _span(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    seconds = max(0, milliseconds // 1000)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _digest(value: str) -> str:
    algorithm, _, digits = value.partition(":")
    return f"{algorithm}:{digits[:12]}"


def _size(value: int) -> str:
    size = float(value)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
