"""Says in one line that python is too old, before anything is installed.

Runs on any Python 3, so it uses nothing newer than 3.0.
"""

import sys

NEEDED = (3, 11)

if sys.version_info < NEEDED:
    sys.exit(
        "model-delivery needs python >= 3.11 and %s is %d.%d: name a newer one, "
        "for example `make demo PYTHON=python3.12`" % ((sys.executable, *sys.version_info[:2]))
    )
