"""The tiny family on disk, built once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete Stable Diffusion family with random weights."""
    from tests.tiny_family import build_tiny_family

    return build_tiny_family(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model_id(tiny_family: Path) -> str:
    return f"path:{tiny_family}"
