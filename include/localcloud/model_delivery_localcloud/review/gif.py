"""How many frames a GIF has, counted no further than is allowed.

A megabyte holds 60,000 frames of a pixel, or 500,000 blocks of a byte; Pillow would go through all.
Source: GIF89a Specification (CompuServe, 1990), 18 "Logical Screen Descriptor" to 27 "Trailer".
"""

_MAGIC = (b"GIF87a", b"GIF89a")
_EXTENSION, _IMAGE = 0x21, 0x2C
# The largest image that is shown, in full blocks of 255 bytes, has a third of that.
_MOST_BLOCKS = 400_000


def frames_of(body: bytes, most: int) -> int | None:
    """Return how many frames a GIF has, up to `most` and one more.

    None for what is no GIF, has no frame where the first should be, or has too many blocks.
    """
    if not body.startswith(_MAGIC):
        return None
    frames = blocks = 0
    try:
        at = 13 + _palette(body[10])
        while frames <= most and body[at] in (_EXTENSION, _IMAGE):
            if body[at] == _IMAGE:
                frames += 1
                at += 11 + _palette(body[at + 9])
            else:
                at += 2
            while size := body[at]:
                at += 1 + size
                blocks += 1
                if blocks > _MOST_BLOCKS:
                    return None
            at += 1
    except IndexError:
        pass  # it is cut off: what is there may be shown
    return frames or None


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
