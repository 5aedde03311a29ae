"""Says in one line that python is too old, before anything is installed.

Runs on any Python 3, so it uses nothing newer than 3.0.
"""

import sys

NEEDED = (3, 11)

if sys.version_info < NEEDED:  # noqa: UP036 - the check is the file's purpose
    have = ".".join(str(part) for part in sys.version_info[:3])
    sys.exit(
        "model-delivery needs python >= 3.11 and {0} is {1}: "
        "name a newer one, for example `make demo PYTHON=python3.12`".format(  # noqa: UP032
            sys.executable, have
        )
    )
