"""Signed URLs that open one thing for a while: an object of an item, an item's template.

A template's frame has no session, so its URL itself says what it may read, as a presigned URL does.
"""

import hashlib
import hmac

from itsdangerous import BadData, URLSafeTimedSerializer

from model_delivery_localcloud.review.template import object_uri
from model_delivery_localcloud.settings import Settings

MEDIA = "/review/media"
FRAME = "/review/frame"
VALID_SECONDS = 12 * 3600


class Grants:
    """Makes and reads the URLs."""

    def __init__(self, settings: Settings) -> None:
        key = hmac.digest(settings.secret_key.encode(), b"portal grants", hashlib.sha256).hex()
        self._media = URLSafeTimedSerializer(key, salt="media")
        self._frame = URLSafeTimedSerializer(key, salt="frame")
        self._public_url = (settings.public_url or "").rstrip("/")

    def media(self, uri: str) -> str:
        """Return the URL under which a browser may read an object; refuses what is none."""
        return f"{MEDIA}/{self._media.dumps(object_uri(uri))}"

    def public_media(self, uri: str) -> str:
        """Return the same with the server's address, where the settings know it."""
        return f"{self._public_url}{self.media(uri)}"

    def frame(self, flow_id: str, loop_id: int) -> str:
        """Return the URL of an item's template, filled in."""
        return f"{FRAME}/{self._frame.dumps([flow_id, loop_id])}"

    def read_media(self, token: str) -> str | None:
        """Return the object's URI, None for a token that is not ours or too old."""
        try:
            return str(self._media.loads(token, max_age=VALID_SECONDS))
        except BadData:
            return None

    def read_frame(self, token: str) -> tuple[str, int] | None:
        """Return flow id and loop id, None for a token that is not ours or too old."""
        try:
            flow_id, loop_id = self._frame.loads(token, max_age=VALID_SECONDS)
        except BadData:
            return None
        return str(flow_id), int(loop_id)
