"""Objects that reviewers look at: images only, of a size that a browser can take.

A picture of a few kilobytes may claim to be gigapixels wide; what its header says is checked before
any of it is sent, and what is sent is what was checked.

A store that hangs keeps whoever reads from it: images have threads of their own, so that it keeps
nothing else, and whoever has waited long enough is told.
"""

import io
from asyncio import get_running_loop, wait_for
from concurrent.futures import ThreadPoolExecutor

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from model_delivery_localcloud.errors import ObjectError, ObjectMissing
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.portal.grants import Grants
from model_delivery_localcloud.review.gif import frames_of

LARGEST_BYTES = 32 * 1024 * 1024
MOST_PIXELS = 64_000_000
MOST_FRAMES = 100
# Each holds an image twice for a moment: 0.5 GiB of the largest.
THREADS = 8
WAIT_SECONDS = 15.0
READ_SECONDS = 5.0
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, max-age=3600",
    "Content-Disposition": "inline",
}


class Media:
    """Serves the objects that grants name."""

    def __init__(self, objects: ObjectStore, grants: Grants) -> None:
        self._objects = objects
        self._grants = grants
        self._threads = ThreadPoolExecutor(THREADS, "media")

    async def show(self, request: Request) -> Response:
        """Answer an image, or one line on why not."""
        uri = self._grants.read_media(request.path_params["token"])
        if uri is None:
            return _problem(404, "this link is not valid any more: reload the page")
        reading = get_running_loop().run_in_executor(self._threads, self._answer, uri)
        try:
            # What has not begun by then is not begun.
            return await wait_for(reading, WAIT_SECONDS)
        except TimeoutError:
            return _away()

    def _answer(self, uri: str) -> Response:
        try:
            size = self._objects.describe(uri).size
            if size > LARGEST_BYTES:
                return _problem(
                    413, f"the image has {size} bytes, at most {LARGEST_BYTES} are shown"
                )
            body = b"".join(self._objects.read(uri))
        except ObjectMissing as error:
            return _problem(404, str(error))
        except ObjectError:
            return _away()
        kind = image_type(body)
        if kind is None:
            return _problem(
                415, f"this is no {', '.join(FORMATS)} image of at most {MOST_PIXELS} pixels"
            )
        return Response(body, media_type=kind, headers=HEADERS)


def image_type(body: bytes) -> str | None:
    """Return the media type of an image that may be shown, None for anything else."""
    gif = body.startswith(b"GIF")
    frames = frames_of(body, MOST_FRAMES) if gif else 1
    if frames is None:
        return None
    try:
        with Image.open(io.BytesIO(body), formats=list(FORMATS)) as image:
            width, height = image.size
            # Of a GIF Pillow would count them all; other formats say it in their headers.
            frames = frames if gif else getattr(image, "n_frames", 1)
            kind = image.format
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
    if width * height > MOST_PIXELS or frames > MOST_FRAMES or kind is None:
        return None
    return FORMATS.get(kind)


def _away() -> Response:
    return _problem(503, "the object store does not answer: try again")


def _problem(status: int, message: str) -> Response:
    return Response(message, status, media_type="text/plain", headers=HEADERS)
