"""The log of requests names no URL that opens what it names."""

import logging

from model_delivery_localcloud.portal.access_log import WithoutGrants


def line(path: str) -> str:
    given = ("127.0.0.1:5", "GET", path, "1.1", 200)
    record = logging.LogRecord(
        "uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', given, None
    )
    assert WithoutGrants().filter(record)
    return record.getMessage()


def test_grants_are_left_out_and_nothing_else() -> None:
    assert (
        line("/review/media/InMzOi8v.abc.def") == '127.0.0.1:5 - "GET /review/media/… HTTP/1.1" 200'
    )
    assert (
        line("/review/frame/WyJm.abc?x=1") == '127.0.0.1:5 - "GET /review/frame/…?x=1 HTTP/1.1" 200'
    )
    assert line("/review/f00/lead") == '127.0.0.1:5 - "GET /review/f00/lead HTTP/1.1" 200'
