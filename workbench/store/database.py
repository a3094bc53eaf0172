"""A connection to SQLite or PostgreSQL with the newest schema. Knows transactions and faults; knows no table's meaning.

SQLite runs in WAL mode: readers never wait, one writer at a time, and writers queue for `busy_timeout_s`. Every write
begins with BEGIN IMMEDIATE, because a transaction that starts as a reader and turns writer does not queue.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from workbench.errors import RunError, StoreError, WorkbenchError
from workbench.store import review_schema as review_schema  # its tables belong to the metadata
from workbench.store import schema
from workbench.store.faults import explain, is_away

_log = logging.getLogger(__name__)
_MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 0x776F726B62656E63  # PostgreSQL's advisory lock has one number: "workbenc"


class Database:
    """An open store database. Safe to share between threads; open a new one after a fork."""

    def __init__(
        self,
        url: str,
        *,
        folder: Path | None = None,
        busy_timeout_s: float = 30.0,
        pool_size: int = 5,
        reconnect_s: float = 60.0,
    ) -> None:
        """Open, make or upgrade. A relative SQLite file starts from `folder`.
        `pool_size`: PostgreSQL connections kept; at most as many more are made when all are in use. `reconnect_s`: how
        long a PostgreSQL that was there is waited for when it is not, as while it is restarted.

        Raises:
            StoreError: a bad URL, an unreachable server, a file that is no database, a newer schema, no right to write.
            RunError: another process holds the lock for too long, or the disk is full.
        """
        self.busy_timeout_s = busy_timeout_s
        self.pool_size = pool_size
        self.reconnect_s = 0.0
        self.url = _parse(url, folder)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.where = self.url.database if self.is_sqlite else self.url.render_as_string(hide_password=True)
        self.engine = self._connectable()
        try:
            self._upgrade()
        except BaseException:
            self.close()
            raise
        self.reconnect_s = reconnect_s  # from now on: a server that was never there is a wrong URL

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store throughout."""
        with self.explained(), self._connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, counts: bool = True, durable: bool = False) -> Iterator[Connection]:
        """A transaction that is written as a whole or not at all. `counts`: the store's version grows by one.

        `durable`: it outlives a power cut as well. PostgreSQL does so always; SQLite's log is otherwise forced to disk
        now and then only, and what is in it then outlives a killed process, but not the machine.
        """
        with self.explained(), self._connect() as connection:
            connection = connection.execution_options(workbench_write="durable" if durable else "normal")
            with connection.begin():
                yield connection
                if counts:  # last, because on PostgreSQL this row lets one writer through at a time
                    counter = schema.counters.c
                    grow = sa.update(schema.counters).values(value=counter.value + 1)
                    connection.execute(grow.where(counter.name == "version"))

    def revision(self) -> str | None:
        """The schema's revision; None for an empty database."""
        with self.read() as connection:
            return self._revision(connection)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the driver's errors into one line that names the cure."""
        try:
            yield
        except WorkbenchError:
            raise
        except DBAPIError as error:
            raise explain(error.orig or error, where=str(self.where), busy_timeout_s=self.busy_timeout_s) from error
        except PoolTimeoutError as error:
            raise RunError(
                f"store {self.where}: all {2 * self.pool_size} connections of this process were in use for "
                f"{self.busy_timeout_s:g} s; set store_connections in workbench.yaml higher"
            ) from error

    def _connect(self) -> Connection:
        """A connection of the pool; while the server is away, it is waited for."""
        begun, pause = time.monotonic(), 0.2
        while True:
            try:
                return self.engine.connect()
            except DBAPIError as error:
                if time.monotonic() - begun + pause > self.reconnect_s or not is_away(error.orig):
                    raise
                if pause == 0.2:
                    _log.warning(
                        "store %s: the server is away; waiting for it, %g s at most", self.where, self.reconnect_s
                    )
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _connectable(self) -> sa.Engine:
        arguments: dict[str, Any] = {}
        if self.is_sqlite:
            arguments["connect_args"] = {"timeout": self.busy_timeout_s}
        else:
            given = self.url.query.get("options", "")  # such as -csearch_path=... of the user's URL
            options = f"{given} -c lock_timeout={round(self.busy_timeout_s * 1000)}".strip()
            arguments["connect_args"] = {"options": options, "connect_timeout": 10}
            arguments["pool_pre_ping"] = True  # a server may have been restarted since the last page was shown
            arguments |= {
                "pool_size": self.pool_size,
                "max_overflow": self.pool_size,
                "pool_timeout": self.busy_timeout_s,
            }
        try:
            engine = sa.create_engine(self.url, **arguments)
        except ModuleNotFoundError as error:
            raise StoreError(
                f"store {self.where}: {error.name} is not installed; pip install 'model-workbench[scale]'"
            ) from error
        except (SQLAlchemyError, TypeError) as error:
            raise StoreError(f"store {self.where}: {error}") from error
        # Ctrl-C may fall into the return of a connection; the pool closes it and would log a traceback about that.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        if self.is_sqlite:
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _revision(self, connection: Connection) -> str | None:
        tables = sa.inspect(connection).get_table_names()
        if "alembic_version" not in tables:
            if self.is_sqlite and tables:
                raise StoreError(
                    f"store {self.where}: this database belongs to another program (it has the table {tables[0]}); "
                    "name another file as `store` in workbench.yaml"
                )
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()

    def _upgrade(self) -> None:
        if self.is_sqlite:
            self._use_wal()
        if self.revision() == schema.REVISION:
            return
        with self.write(counts=False) as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            revision = self._revision(connection)  # another process may have been faster
            if revision != schema.REVISION:
                self._run_migrations(connection, revision)

    def _run_migrations(self, connection: Connection, revision: str | None) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise StoreError(
                f"store {self.where}: written by a newer workbench (schema {revision}, this one knows {max(known)}); "
                "pip install -U model-workbench"
            )
        command.upgrade(config, "head")

    def _use_wal(self) -> None:
        """Set write-ahead logging, which stays set. SQLite may answer "locked" at once here, so waiting is up to us."""
        deadline = time.monotonic() + self.busy_timeout_s
        while True:
            try:
                raw = self.engine.raw_connection()
                try:
                    if raw.cursor().execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                        raw.cursor().execute("PRAGMA journal_mode = WAL")
                finally:
                    raw.close()
                return
            except (sqlite3.Error, DBAPIError) as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    cause = error.orig or error if isinstance(error, DBAPIError) else error
                    raise explain(cause, where=str(self.where), busy_timeout_s=self.busy_timeout_s) from error
                time.sleep(0.02)


def insert(connection: Connection, table: sa.Table) -> Any:
    """An INSERT of the connection's own dialect, which knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if connection.dialect.name == "sqlite":
        return sqlite_insert(table)
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert  # imports asyncio: a tenth of a second

    return postgresql_insert(table)


def _parse(url: str, folder: Path | None) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise StoreError("store: no database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE") from None
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"store: {backend} is not supported; write sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    if not parsed.database or parsed.database == ":memory:":
        raise StoreError("store: a database in memory keeps nothing; write sqlite:///FILE")
    return parsed.set(database=str((folder or Path()) / parsed.database))


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`, not guessed by the driver
    for pragma in ("foreign_keys = ON", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    is_write = connection.get_execution_options().get("workbench_write")
    if is_write:  # no PRAGMA of this kind may stand inside a transaction
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if is_write == 'durable' else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
