"""Signing in and out, and the guard in front of every page."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from model_delivery_localcloud.portal.remembered import Remembered
from model_delivery_localcloud.portal.rendering import Renderer
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store import users
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import User
from model_delivery_localcloud.store.users import Role

SESSION_SECONDS = 12 * 3600
SESSION = "session"
LARGEST_FORM = 16 * 1024
HOME = "/"
THROTTLED = "Too many wrong passwords for this name or from here. Try again in five minutes."
WRONG = "Name and password do not belong together."
STALE = "This form was open for too long. Try again."

Endpoint = Callable[[Request], Awaitable[Response]]


def session_middleware(settings: Settings) -> Middleware:
    """Return the signed session cookie, under a key that is used for nothing else."""
    key = hmac.digest(settings.secret_key.encode(), b"portal sessions", hashlib.sha256)
    return Middleware(
        SessionMiddleware,
        secret_key=key.hex(),
        session_cookie="localcloud_session",
        max_age=SESSION_SECONDS,
        same_site="lax",
        https_only=bool(settings.public_url and settings.public_url.startswith("https://")),
    )


class SignIn:
    """The sign-in page and the guard."""

    def __init__(self, database: Database, renderer: Renderer) -> None:
        self._database = database
        self._renderer = renderer
        self._known = Remembered(self._find)

    def guarded(self, page: Endpoint, *roles: Role) -> Endpoint:
        """Return the page for people of these roles who are signed in; default administrators.

        Others are sent to sign in first. A page finds who asks in `request.state.user`.
        """
        allowed = roles or (Role.ADMIN,)

        async def guard(request: Request) -> Response:
            user = await run_in_threadpool(self.user_of, request)
            if user is None:
                wanted = request.url.path
                return RedirectResponse(f"/sign-in?next={quote(wanted)}", status_code=303)
            request.state.user = user
            if user.role not in allowed:
                return self._renderer.page(request, "forbidden.html", status=403)
            return await page(request)

        return guard

    def user_of(self, request: Request) -> User | None:
        """Return who is signed in, None for nobody, somebody who is gone or has signed out."""
        secret = request.session.get(SESSION)
        return None if secret is None else self._known.get(str(secret))

    def _find(self, secret: str) -> User | None:
        with self._database.read() as session:
            return users.user_of_session(session, secret)

    async def show(self, request: Request) -> Response:
        """Show the form."""
        return self._form(request)

    async def submit(self, request: Request) -> Response:
        """Check name and password, slowly and not too often."""
        if is_too_large(request):
            return self._form(request, STALE, 413)
        form = await request.form()
        name, password = str(form.get("name", "")), str(form.get("password", ""))
        if not valid_csrf(request, form.get("csrf")):
            return self._form(request, STALE, 403)
        address = request.client.host if request.client else ""
        problem = await run_in_threadpool(self._check, name, password, address)
        if problem is not None:
            return self._form(request, problem, 429 if problem == THROTTLED else 403)
        await run_in_threadpool(self._end, request.session.get(SESSION))
        request.session.clear()
        request.session[SESSION] = await run_in_threadpool(self._begin, name)
        return RedirectResponse(_local(str(form.get("next", ""))), status_code=303)

    async def leave(self, request: Request) -> Response:
        """Sign out: here, and wherever else the same cookie is."""
        if is_too_large(request):
            return self._form(request, STALE, 413)
        form = await request.form()
        if valid_csrf(request, form.get("csrf")):
            await run_in_threadpool(self._end, request.session.get(SESSION))
            request.session.clear()
        return RedirectResponse("/sign-in", status_code=303)

    def _form(self, request: Request, problem: str | None = None, status: int = 200) -> Response:
        wanted = _local(request.query_params.get("next", ""))
        return self._renderer.page(
            request, "sign_in.html", status=status, problem=problem, next=wanted
        )

    def _begin(self, name: str) -> str:
        with self._database.write() as session:
            return users.begin_session(session, name, SESSION_SECONDS)

    def _end(self, secret: str | None) -> None:
        if secret is None:
            return
        with self._database.write() as session:
            users.end_session(session, str(secret))
        self._known.forget(str(secret))

    def _check(self, name: str, password: str, address: str) -> str | None:
        # The attempt is there for others to count before it counts them: of many at once, whichever
        # comes last finds all the others.
        with self._database.write() as session:
            attempt = users.record_attempt(session, name, address)
        with self._database.read() as session:
            throttled = users.is_throttled(session, name, address, attempt)
            right = not throttled and users.check_password(session, name, password)
        if throttled:
            with self._database.write() as session:
                users.drop_attempt(session, attempt)
            return THROTTLED
        if not right:
            return WRONG
        with self._database.write() as session:
            users.forget_attempt(session, attempt, name, password)
        return None


def valid_csrf(request: Request, given: object) -> bool:
    """Tell whether a form carries its session's token."""
    expected = request.session.get("csrf", "")
    return bool(expected) and hmac.compare_digest(str(given).encode(), expected.encode())


def is_too_large(request: Request) -> bool:
    """Tell whether a form is larger than any of ours."""
    # A form that does not say its size is none of ours.
    return int(request.headers.get("content-length", LARGEST_FORM + 1)) > LARGEST_FORM


def _local(path: str) -> str:
    # Browsers read a backslash as a slash: neither may begin another host's name.
    safe = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if safe else HOME
