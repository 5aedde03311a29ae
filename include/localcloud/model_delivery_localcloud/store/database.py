"""Connections and transactions, and the migrations that the package ships."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DisconnectionError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import StoreError

LOCK_SECONDS = 10.0
# For a lock where one has been waited for already.
HASTY_MS = 50
BUSY = "the database is busy: try again"
_LOCK_NOT_AVAILABLE = "55P03"
# Kept open, and at most: as many as a server has threads.
CONNECTIONS = 12
MOST_CONNECTIONS = 48
IDLE_SECONDS = 1.0
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """The store at a SQLAlchemy URL.

    On SQLite: write-ahead log, and writers that begin IMMEDIATE, so that two of them queue up and
    neither fails when it upgrades from reading to writing. Writers of one process queue up at a
    lock: SQLite's own wait polls, which is slow and unfair among many.

    :param lock_seconds: how long another transaction's lock is waited for, of a row on Postgres, of
        the file on SQLite; then the error is one that `is_busy` knows (default: 10)
    """

    def __init__(self, url: str, lock_seconds: float = LOCK_SECONDS) -> None:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = create_engine(
            parsed,
            pool_size=CONNECTIONS,
            max_overflow=MOST_CONNECTIONS - CONNECTIONS,
        )
        # Each statement sees what is committed, as within a transaction there; the two requests
        # that begin and end one are saved.
        self._reading = self.engine
        if not self.is_sqlite:
            self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._writer: AbstractContextManager[Any] = nullcontext()
        if self.is_sqlite:
            self._writer = Lock()
            _prepare_sqlite(self.engine, round(lock_seconds * 1000))
        else:
            _prepare_postgres(self.engine, round(lock_seconds * 1000))

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session for reading; nothing that is changed in it is kept."""
        with Session(self._reading, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self, *, hasty: bool = False) -> Iterator[Session]:
        """Give a session in one transaction: kept when the block ends, undone if it raises.

        :param hasty: whether rows that are locked are waited for no longer than 50 ms; the file of
            SQLite is waited for as ever (default: False)
        """
        with self._writer, Session(self.engine, expire_on_commit=False) as session:
            connection = session.connection(execution_options={"localcloud_write": True})
            if hasty and not self.is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {HASTY_MS}")
            yield session
            session.commit()

    def migrate(self) -> str:
        """Bring the tables to this version's revision and return the revision's name."""
        with self.engine.connect() as connection:
            if self.is_sqlite:
                # SQLite alters a table by building it anew, and dropping the old one would take
                # the rows along that refer to it. Outside of a transaction, or it has no effect.
                connection.connection.execute("PRAGMA foreign_keys=OFF")
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            if self.is_sqlite:
                connection.connection.execute("PRAGMA foreign_keys=ON")
        return _newest_revision()

    def check(self) -> None:
        """Raise StoreError unless the database answers and its tables are at our revision."""
        try:
            with self.engine.connect() as connection:
                found = MigrationContext.configure(connection).get_current_revision()
        except SQLAlchemyError as error:
            raise StoreError(f"the database does not answer: {_first_line(error)}") from error
        if found != _newest_revision():
            raise StoreError(
                f"the database is at revision {found}, this version needs {_newest_revision()}: "
                "run model-delivery-localcloud migrate"
            )

    def ping(self) -> None:
        """Raise StoreError unless the database answers."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise StoreError(f"the database does not answer: {_first_line(error)}") from error

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def is_busy(error: BaseException) -> bool:
    """Tell whether a lock of another transaction was waited for in vain."""
    if not isinstance(error, OperationalError):
        return False
    if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
        return True
    # The lowest byte: the others say more of how it is busy.
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _prepare_sqlite(engine: Engine, lock_ms: int) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling begins late and DEFERRED; we begin ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={lock_ms}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("localcloud_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgres(engine: Engine, lock_ms: int) -> None:
    """Let locks end a wait, queues be read in the order of their index, and rows by their keys.

    A table that was filled a moment ago has no statistics yet. The planner then believes a queue of
    100,000 to be one of 200, and would for each item read it whole and sort it: 230 ms, not 0.1.
    It also believes 60 loops to have thousands of answers, and would read all there are: what is
    read here lies in memory, where one page costs what another does.
    """

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = {lock_ms}")
        connection.execute("SET enable_bitmapscan = off")
        connection.execute("SET random_page_cost = 1.0")
        connection.commit()

    @event.listens_for(engine, "checkin")
    def left(_connection: Any, record: Any) -> None:
        record.info["left_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def taken(connection: Any, record: Any, _proxy: Any) -> None:
        # A server that was started anew has closed what lay in the pool. What was in use a moment
        # ago is not asked: that would be a quarter of all requests.
        if time.monotonic() - record.info.get("left_at", 0.0) < IDLE_SECONDS:
            return
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError(f"the connection is lost: {error}") from error


def alembic_config() -> Config:
    """Return how the package's migrations are run."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _newest_revision() -> str:
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None, "the package ships at least one migration"
    return head


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
