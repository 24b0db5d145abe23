"""The tiny Stable Diffusion XL family on disk, its parts, and Denoisers of it in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import PipelineSettings
from deployments.pipeline.parts import PipelineParts, load_parts
from tests.replicas import Replicas
from tests.tiny_sdxl import build_tiny_sdxl


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the real layout."""
    return build_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def parts(sdxl: Path) -> PipelineParts:
    settings = PipelineSettings(precision="float32", embedding_cache_entries=8)
    return load_parts(f"path:{sdxl}", settings, "cpu")


@pytest.fixture
def replicas(sdxl: Path) -> Iterator[Replicas]:
    started = Replicas(f"path:{sdxl}", 2)
    yield started
    started.stop()
