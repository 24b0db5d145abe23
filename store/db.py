"""The database: how it is opened, and its transactions. What is SQLite's alone asks the dialect first."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import InsufficientStorage
from store.tables import SCHEMA_VERSION, metadata, schema_version

BUSY_TIMEOUT_S = 30.0
_WRITES = "limner_writes"
# A quota or a limit on file sizes reaches SQLite as a write that failed, a full disk also as shared memory
# that cannot grow.
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_POSTGRESQL_FULL = "53100"


class WrongSchema(RuntimeError):
    """The database was made by another version of the code."""


def open_database(url: str) -> Engine:
    """The database of an SQLAlchemy URL, with its tables, made where they are missing.

    A SQLite file and its folder are made for their owner alone. The engine may be used from any number
    of threads, but not across a fork or in another process: each opens its own. Raises WrongSchema,
    InsufficientStorage, and ValueError for a SQLite database in memory, which threads could not share.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        _ensure_schema(engine)
        return engine
    path = _file_of(parsed)
    with _alone_in(path.parent):
        _own(path)
        engine = _sqlite_engine(parsed)
        try:
            _ensure_schema(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """One consistent view of the database."""
    with engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Generator[Connection]:
    """One transaction, committed at the end unless an error leaves it. On SQLite the only writer from its
    first statement on, so what it reads stays true. Raises InsufficientStorage."""
    try:
        with engine.execution_options(**{_WRITES: True}).begin() as connection:
            yield connection
    except DBAPIError as error:
        if _is_full(error.orig):
            raise InsufficientStorage("The database has no room left.") from error
        raise


def forget_deleted(engine: Engine) -> None:
    """Have deleted rows leave the log of SQLite too, as far as no reader needs it still."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) in _SQLITE_FULL
    return getattr(error, "sqlstate", None) == _POSTGRESQL_FULL


def _file_of(url: URL) -> Path:
    if not url.database or ":memory:" in url.database or url.query:
        raise ValueError("the SQLite database has to be a plain file")
    return Path(url.database)


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Keep others from opening a database here meanwhile: of two that switch a new one to WAL at the same
    moment, one may be told that it is locked, without the wait that SQLite grants otherwise."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _own(path: Path) -> None:
    # SQLite gives the files beside it the same permissions.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)


def _sqlite_engine(url: URL) -> Engine:
    # Without an isolation level the driver leaves BEGIN to us.
    # Errors end in logs, where nothing of a member's may stand.
    engine = create_engine(
        url, connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options: dict[str, Any] = dict(connection.get_execution_options())
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_WRITES) else "BEGIN")

    return engine


def _ensure_schema(engine: Engine) -> None:
    with writing(engine) as connection:
        metadata.create_all(connection)
        version = connection.scalar(select(schema_version.c.version))
        if version is None:
            connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
        elif version != SCHEMA_VERSION:
            raise WrongSchema(f"the database has schema {version}, this code needs {SCHEMA_VERSION}")
