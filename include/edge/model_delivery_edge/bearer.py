"""Bearer authentication in front of an ASGI application."""

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class BearerAuthentication:
    """Lets a request through that carries the token, or that asks for a public path.

    :param token: the token; compared in constant time
    :param public: paths that need none
    """

    def __init__(self, app: ASGIApp, token: str, public: Collection[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or answer 401."""
        if scope["type"] != "http" or scope["path"] in self._public or self._knows(scope):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse(
            {"error": "this endpoint takes the device's API token: Authorization: Bearer <token>"},
            status_code=401,
            headers={"WWW-Authenticate": 'Bearer realm="model-delivery-edge"'},
        )
        await refusal(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        # Headers are latin-1; what is not the token's bytes is not the token.
        given = token.strip().encode("latin-1", errors="replace")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)
