"""The database file: private, made once, and honest when there is no room."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import dialects, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.schema import CreateIndex

from core.errors import InsufficientStorage
from store.db import WrongSchema, open_database, reading, writing
from store.jobs import Jobs
from store.tables import adapters, jobs
from tests.fakes import VirtualClock
from tests.store.records import adapter, queue


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "data"
    before = os.umask(0)
    try:
        engine = open_database(f"sqlite:///{folder / 'limner.db'}")
        with writing(engine) as connection:
            connection.execute(insert(adapters).values(_row()))
        found = modes(folder)
        assert found == {"data": 0o700, "limner.db": 0o600, "limner.db-wal": 0o600, "limner.db-shm": 0o600}
        engine.dispose()
    finally:
        os.umask(before)


def test_a_file_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "limner.db"
    path.touch(mode=0o644)
    open_database(f"sqlite:///{path}").dispose()
    assert modes(tmp_path)["limner.db"] == 0o600


def test_opening_again_keeps_what_is_there(url: str) -> None:
    for number in range(2):
        engine = open_database(url)
        with writing(engine) as connection:
            assert len(connection.execute(select(adapters)).all()) == number
            connection.execute(insert(adapters).values(_row(number)))
        engine.dispose()


def test_many_open_a_new_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        engines = list(threads.map(open_database, [url] * 8))
    for number, engine in enumerate(engines):
        with writing(engine) as connection:
            connection.execute(insert(adapters).values(_row(number)))
        engine.dispose()


def test_another_schema_is_refused(url: str) -> None:
    engine = open_database(url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE schema_version SET version = 99"))
    engine.dispose()
    with pytest.raises(WrongSchema, match="99"):
        open_database(url)


@pytest.mark.parametrize(
    "shared_by_nobody", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory"]
)
def test_a_database_in_memory_is_refused(shared_by_nobody: str) -> None:
    with pytest.raises(ValueError, match="plain file"):
        open_database(shared_by_nobody)


def test_settings_of_a_connection(url: str) -> None:
    engine = open_database(url)
    with reading(engine) as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "secure_delete")
        }
    engine.dispose()
    assert values == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "secure_delete": 1}


def test_an_error_undoes_the_transaction(url: str) -> None:
    engine = open_database(url)
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(insert(adapters), [_row(), _row() | {"adapter_id": None}])
    with reading(engine) as connection:
        assert connection.execute(select(adapters)).all() == []
    engine.dispose()


def test_a_reader_sees_one_moment(url: str) -> None:
    engine = open_database(url)
    with reading(engine) as reader:
        assert reader.execute(select(adapters)).all() == []
        with writing(engine) as writer:
            writer.execute(insert(adapters).values(_row()))
        assert reader.execute(select(adapters)).all() == []
    with reading(engine) as reader:
        assert len(reader.execute(select(adapters)).all()) == 1
    engine.dispose()


def test_times_come_back_in_utc(url: str) -> None:
    engine = open_database(url)
    in_tokyo = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=9)))
    with writing(engine) as connection:
        connection.execute(insert(adapters).values(_row() | {"created_at": in_tokyo}))
        back = connection.scalar(select(adapters.c.created_at))
        assert connection.scalar(select(adapters.c.name).where(adapters.c.created_at == in_tokyo))
    engine.dispose()
    assert back == in_tokyo
    assert back.tzinfo is UTC


def test_postgresql_would_get_the_partial_index_too() -> None:
    index = next(index for index in jobs.indexes if index.name == "one_open_job_per_member")
    ddl = str(CreateIndex(index).compile(dialect=dialects.registry.load("postgresql")()))
    assert "CREATE UNIQUE INDEX" in ddl
    assert "WHERE status IN ('queued', 'running')" in ddl


def test_a_full_database_refuses_and_stays_whole(url: str, clock: VirtualClock) -> None:
    engine = open_database(url)
    store = Jobs(engine, clock)
    first = queue(store, "ada")
    with reading(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InsufficientStorage):
        queue(store, "bob", warnings=["x" * 100_000])
    assert store.list("bob") == []
    assert store.list("ada") == [first]
    assert len(store.events(first.job_id)) == 1
    engine.dispose()


def test_other_faults_of_the_database_are_not_called_full(url: str) -> None:
    engine = open_database(url)
    with pytest.raises(OperationalError), writing(engine) as connection:
        connection.execute(text("SELECT * FROM nowhere"))
    engine.dispose()


IN_A_SMALL_PLACE = """
import sys
from core.errors import InsufficientStorage
from store.db import open_database
from store.jobs import Jobs
from tests.store.records import queue
number = 0
try:
    jobs = Jobs(open_database(sys.argv[1]))
    for number in range(1_000):
        queue(jobs, f"member{number}")
except InsufficientStorage:
    print(number)
"""


@pytest.mark.parametrize("limit_bytes", [0, 300_000])
def test_a_limit_on_file_sizes_is_insufficient_storage(url: str, limit_bytes: int) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    made = subprocess.run(
        [sys.executable, "-c", IN_A_SMALL_PLACE, url],
        preexec_fn=limit,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.stderr == ""
    engine = open_database(url)
    with reading(engine) as connection:
        kept = connection.execute(select(jobs.c.num_events)).scalars().all()
    engine.dispose()
    assert kept == [1] * int(made.stdout)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _row(number: int = 0) -> dict[str, Any]:
    return dataclasses.asdict(adapter(second=number))
