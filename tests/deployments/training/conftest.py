"""A store for every test that wants one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.training.workshop import Shelves, shelves_in


@pytest.fixture
def shelves(tmp_path: Path) -> Iterator[Shelves]:
    opened = shelves_in(tmp_path)
    yield opened
    opened.engine.dispose()
