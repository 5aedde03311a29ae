"""The size that an image's header declares, before anything of it is unpacked.

Sources: PNG (W3C), 11.2.2 "IHDR"; ITU-T T.81 (JPEG), B.2.2 "Frame header".
"""

from model_delivery_engine.errors import ReviewError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Start of frame, of whichever process; C4, C8 and CC between them are other segments.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: a temporary one, restarts, start of image.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def declared_size(image: bytes) -> tuple[int, int]:
    """Return width and height of a PNG or a JPEG.

    :raises ReviewError: another format, or a header that is cut off
    """
    if image.startswith(_PNG):
        if image[12:16] == b"IHDR" and len(image) >= 24:
            return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")
    elif image.startswith(_JPEG):
        frame = _frame(image)
        if frame is not None:
            height, width = image[frame + 5 : frame + 7], image[frame + 7 : frame + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
    else:
        raise ReviewError("this is no image that is read: give PNG or JPEG")
    raise ReviewError("this is no image that can be read: its header is cut off")


def _frame(image: bytes) -> int | None:
    """Return where the marker of a JPEG's first frame is, None without one."""
    at = len(_JPEG)
    while True:
        # Decoders pass over what stands between segments, so it is passed over here.
        at = image.find(b"\xff", at)
        while 0 <= at < len(image) - 1 and image[at + 1] == 0xFF:
            at += 1
        if at < 0 or at + 9 > len(image):
            return None
        marker = image[at + 1]
        if marker in _FRAMES:
            return at
        if marker == 0 or marker in _BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(image[at + 2 : at + 4], "big")
