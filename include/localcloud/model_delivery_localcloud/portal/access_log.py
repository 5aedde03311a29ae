"""What the log of requests leaves out: a grant's URL opens what it names for whoever reads it."""

import logging
import re

from model_delivery_localcloud.portal.grants import FRAME, MEDIA

_GRANT = re.compile(rf"({MEDIA}|{FRAME})/[^ ?]+")


class WithoutGrants(logging.Filter):
    """Of a line's URLs, leaves out the token of a grant."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always logged."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                _GRANT.sub(r"\1/…", each) if isinstance(each, str) else each for each in record.args
            )
        return True
