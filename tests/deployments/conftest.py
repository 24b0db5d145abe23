"""The tiny family on disk, built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from deployments.pipeline.parts import PipelineParts
    from tests.replicas import Replicas


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete Stable Diffusion family with random weights."""
    from tests.tiny_family import build_tiny_family

    return build_tiny_family(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model_id(tiny_family: Path) -> str:
    return f"path:{tiny_family}"


@pytest.fixture(scope="session")
def tiny_parts(tiny_model_id: str) -> PipelineParts:
    """Text encoder and VAE of the tiny family."""
    from core.settings import PipelineSettings
    from deployments.pipeline.parts import load_parts

    return load_parts(tiny_model_id, PipelineSettings(precision="float32", embedding_cache_entries=8), "cpu")


@pytest.fixture
def replicas(tiny_model_id: str) -> Iterator[Replicas]:
    """Two Denoisers of the tiny family in this process."""
    from tests.replicas import Replicas

    started = Replicas(tiny_model_id, 2)
    yield started
    started.stop()
