"""What tests of localcloud's parts share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_delivery_localcloud.store.database import Database

from tests.postgres import MISSING, installed, postgres


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start a Postgres for the tests of a file and give its URL."""
    if not installed():
        pytest.skip(MISSING)
    with postgres() as url:
        yield url


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Make a store for one test, on SQLite."""
    built = Database(f"sqlite:///{tmp_path / 'store.db'}")
    built.migrate()
    yield built
    built.close()
