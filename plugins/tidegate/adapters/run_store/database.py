"""The database under the run store: opening it, bringing its schema up to date, and transactions on it.

SQLite serves every process of one host, PostgreSQL a cluster. What is stored in it is `store`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tidegate.adapters.run_store import tables
from tidegate.core.errors import FixConfig, RetryLater

BUSY_SECONDS: Final = 30.0
MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: Arbitrary numbers of ours for PostgreSQL's advisory locks.
_SCHEMA_LOCK: Final = 7_146_203
_JOB_LOCKS: Final = 7_146_204
_READS: Final = "tidegate_reads"
_UNREACHABLE: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


class Database:
    """One database with the newest schema. Safe to share between threads; each process opens its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._is_current = False
        self._writers = engine
        self._readers = engine.execution_options(**{_READS: True})

    @classmethod
    def open(cls, url: str, *, migrate: bool = True) -> Database:
        """The database at `url`; without `migrate` an empty one is set up, an older one waits for others."""
        try:
            engine = _engine(url)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
            raise FixConfig(
                f"the run store's URL is no database URL that can be opened here ({type(error).__name__});"
                " set TIDEGATE_RUN_STORE_URL, for example to sqlite:////var/lib/tidegate/runs.sqlite or to"
                " postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            ) from None
        database = cls(engine)
        with database._told():
            if migrate or database._revision() is None:
                database._migrate()
                database._is_current = True
        return database

    def _migrate(self) -> None:
        found = self._revision()
        if found == tables.NEWEST_REVISION:
            return
        # Imported late: every task opens the store, and all but the first find it migrated.
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            with self._writers.begin() as connection:
                if not self._is_sqlite:
                    # Several tasks may open a new store at once; the second waits and finds it migrated.
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError:
            raise FixConfig(
                f"the run store has schema {found}, which this Tidegate (schema {tables.NEWEST_REVISION}) does not"
                " know: bring every part of the control plane to the newest release"
            ) from None

    def _revision(self) -> str | None:
        with self._readers.begin() as connection:
            if not sa.inspect(connection).has_table(tables.SCHEMA_TABLE):
                return None
            query = sa.text(f"SELECT version_num FROM {tables.SCHEMA_TABLE}")  # noqa: S608
            found: str | None = connection.execute(query).scalar()
        return found

    def _check_schema(self) -> None:
        if self._is_current:
            return
        if (found := self._revision()) != tables.NEWEST_REVISION:
            raise RetryLater(
                f"the run store has schema {found}, this release reads {tables.NEWEST_REVISION}: Airflow of this"
                " release brings it up to date"
            )
        self._is_current = True

    def close(self) -> None:
        self._writers.dispose()

    @property
    def address(self) -> str:
        return self._writers.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that writes nothing; on SQLite it neither waits for a writer nor makes one wait."""
        with self._told():
            self._check_schema()
            with self._readers.begin() as connection:
                yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that may write; on SQLite it is the only one of its kind."""
        with self._told():
            self._check_schema()
            with self._writers.begin() as connection:
                yield connection

    def lock_job(self, connection: sa.Connection, job: str) -> None:
        """Make other writers about this job wait until the transaction ends."""
        if not self._is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_JOB_LOCKS, sa.func.hashtext(job))))

    def insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table) if self._is_sqlite else postgresql.insert(table)

    @property
    def _is_sqlite(self) -> bool:
        return self._writers.dialect.name == "sqlite"

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except _UNREACHABLE as error:
            # The driver's own words quote neither values nor the URL's password.
            words = error.orig if isinstance(error, sa.exc.DBAPIError) else "no connection was free"
            raise RetryLater(f"the run store does not answer: {words}", delay_seconds=5.0) from None


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return sa.create_engine(parsed, pool_pre_ping=True, pool_size=2, max_overflow=4, pool_recycle=300)
    if backend != "sqlite":
        raise FixConfig(f"the run store speaks SQLite and PostgreSQL, not {backend}")
    if parsed.database in (None, "", ":memory:"):
        raise FixConfig("the run store needs a file that all its processes can open: a database in memory is none")
    folder = Path(parsed.database).parent
    if not folder.is_dir():
        raise FixConfig(
            f"TIDEGATE_RUN_STORE_URL names a file in {folder}, which is no folder: make it, or name another"
        )
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun by `_begin`, not by the driver at the first write, which could then be refused.
    connection.isolation_level = None
    cursor = connection.cursor()
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Switch to write-ahead logging, which a file keeps; SQLite waits for nobody while it switches, so we do."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except Exception as error:  # sqlite3's, by whatever driver the URL names
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return


def _begin(connection: sa.Connection) -> None:
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
