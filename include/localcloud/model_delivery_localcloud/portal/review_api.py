"""The portal's JSON interface for reviewers: `/review/api/…`, behind the session cookie.

Whoever posts sends the session's token in `X-CSRF-Token`; `GET /review/api/session` tells it.
"""

from asyncio import get_running_loop, wrap_future
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.portal.rendering import SECURITY_HEADERS, csrf_token
from model_delivery_localcloud.portal.review_desk import Change, Desk, Refused
from model_delivery_localcloud.portal.sessions import SignIn, valid_csrf
from model_delivery_localcloud.store.tables import User

LARGEST_BODY = 2 * 1024 * 1024
MOST_AT_ONCE = 100
# What is done in them is mostly Python, which more threads would only take turns at, and each turn
# keeps the one that commits waiting. Who waits for a transaction holds none of them.
THREADS = 2
Work = Callable[[User, str, dict[str, Any]], dict[str, Any] | Change]
MakeRoute = Callable[[str, Callable[[Request], Awaitable[Response]], str], Route]


class ReviewApi:
    """What a reviewer does, as calls; each acts for who is signed in and nobody else."""

    def __init__(self, desk: Desk, sign_in: SignIn) -> None:
        self._desk = desk
        self._sign_in = sign_in
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="review")

    def routes(self, route: MakeRoute) -> list[Route]:
        """Return the routes."""
        desk = self._desk
        works: dict[str, Work] = {
            "next": lambda user, flow, body: desk.next(user, flow, _count(body)),
            "open": lambda user, flow, body: desk.open(user, flow, _loop(body)),
            "answer": lambda user, flow, body: desk.answer(
                user, flow, _loop(body), _object(body, "answer"), _spent(body),
                more=bool(body.get("next")),
            ),
            "draft": lambda user, flow, body: desk.draft(
                user, flow, _loop(body), _object(body, "draft")
            ),
            "skip": lambda user, flow, body: desk.skip(
                user, flow, _loop(body), more=bool(body.get("next"))
            ),
            "release": lambda user, flow, body: desk.release(user, flow, _loops(body)),
            "undo": lambda user, flow, _body: desk.undo(user, flow),
            "recall": lambda user, flow, _body: desk.recall(user, flow),
            "accept": lambda user, flow, body: desk.accept(user, flow, _loops(body), _spent(body)),
            "retract": lambda user, flow, body: desk.retract(user, flow, _loops(body)),
            "counts": lambda user, flow, _body: desk.counts(user, flow),
        }  # fmt: skip
        return [
            route("/review/api/session", self.session, "GET"),
            route("/review/api/queues", self.queues, "GET"),
            *(
                route(f"/review/api/{{flow}}/{name}", self._endpoint(work), "POST")
                for name, work in works.items()
            ),
        ]

    async def session(self, request: Request) -> Response:
        """Tell who is signed in, and the token that posts need."""
        user = await run_in_threadpool(self._sign_in.user_of, request)
        if user is None:
            return _problem(401, "sign in first")
        return _json({"user": user.name, "role": user.role, "csrf": csrf_token(request)})

    async def queues(self, request: Request) -> Response:
        """List the queues of the person's teams, with counts."""
        user = await run_in_threadpool(self._sign_in.user_of, request)
        if user is None:
            return _problem(401, "sign in first")
        return _json({"queues": await run_in_threadpool(self._desk.queues, user)})

    def _endpoint(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if not valid_csrf(request, request.headers.get("x-csrf-token")):
                return _problem(403, "this page was open for too long: reload it")
            try:
                found = await self._thread(self._begin, work, request, await _body(request))
                if isinstance(found, Change):
                    made = await wrap_future(self._desk.submit(found))
                    found = await self._thread(found.answer, made)
            except Refused as refused:
                return _problem(refused.status, str(refused))
            return _json(found)

        return endpoint

    def _begin(self, work: Work, request: Request, body: dict[str, Any]) -> dict[str, Any] | Change:
        user = self._sign_in.user_of(request)
        if user is None:
            raise Refused(401, "sign in first")
        return work(user, request.path_params["flow"], body)

    async def _thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await get_running_loop().run_in_executor(self._threads, work, *arguments)


async def _body(request: Request) -> dict[str, Any]:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise Refused(413, f"send a JSON object of at most {LARGEST_BODY} bytes")
        chunks.append(chunk)
    try:
        value = strict_json.loads(b"".join(chunks) or b"{}")
    except ValueError as error:
        raise Refused(400, f"send a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise Refused(400, "send a JSON object")
    return value


def _loop(body: dict[str, Any]) -> int:
    return _number(body.get("loop"), "loop")


def _loops(body: dict[str, Any]) -> list[int]:
    loops = body.get("loops")
    if not isinstance(loops, list) or not 0 < len(loops) <= MOST_AT_ONCE:
        raise Refused(400, f"loops must be a list of 1 to {MOST_AT_ONCE} numbers")
    return [_number(each, "loops") for each in loops]


def _count(body: dict[str, Any]) -> int:
    return min(max(_number(body.get("count", 1), "count"), 1), MOST_AT_ONCE)


def _spent(body: dict[str, Any]) -> int:
    return max(_number(body.get("spent_ms", 0), "spent_ms"), 0)


def _number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**53:
        raise Refused(400, f"{name} must be a whole number")
    return value


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise Refused(400, f"{name} must be a JSON object")
    return value


def _json(value: dict[str, Any]) -> Response:
    return JSONResponse(value, headers=SECURITY_HEADERS)


def _problem(status: int, message: str) -> Response:
    return JSONResponse({"problem": message}, status, headers=SECURITY_HEADERS)
