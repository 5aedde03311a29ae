"""Time as the store keeps it: integer milliseconds since 1970-01-01 UTC."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """Return the current time in milliseconds."""
    return time.time_ns() // 1_000_000


def to_datetime(milliseconds: int) -> datetime:
    """Return stored milliseconds as an aware datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def to_milliseconds(moment: datetime) -> int:
    """Return an aware datetime as stored milliseconds."""
    return round(moment.timestamp() * 1000)
