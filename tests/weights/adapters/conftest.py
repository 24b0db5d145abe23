"""A tiny family with a random LoRA put on it by PEFT and saved by diffusers, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_family import build_tiny_family
from tests.weights.adapters.lora_scene import LoraScene


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def scene(tiny_family: Path) -> LoraScene:
    return LoraScene(tiny_family)
