"""What tests of localcloud's parts share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_delivery_localcloud.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Make a store for one test, on SQLite."""
    built = Database(f"sqlite:///{tmp_path / 'store.db'}")
    built.migrate()
    yield built
    built.close()
