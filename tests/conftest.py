"""What every suite may use: the project's folder on the path, and a browser."""

import os
import shutil
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser; the test says how to install what is missing."""
    found = shutil.which("chromium") or os.environ.get("CHROMIUM")
    if not found:
        pytest.fail("chromium is missing: `apt-get install chromium`, or set CHROMIUM to its path")
    return found
