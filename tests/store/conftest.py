"""A database in a file of its own, and jobs under a virtual clock."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from store.adapters import Adapters
from store.db import open_database
from store.jobs import Jobs
from tests.fakes import VirtualClock


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'data' / 'limner.db'}"


@pytest.fixture
def database(url: str) -> Generator[Engine]:
    engine = open_database(url)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> VirtualClock:
    clock = VirtualClock()
    clock.advance(1_800_000_000.0)
    return clock


@pytest.fixture
def jobs(database: Engine, clock: VirtualClock) -> Jobs:
    return Jobs(database, clock)


@pytest.fixture
def adapters(database: Engine) -> Adapters:
    return Adapters(database)
