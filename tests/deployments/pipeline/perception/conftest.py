"""Tiny networks that see, and a family that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from tests.tiny_perception import build_checker, build_clipseg, build_perceptive_family


@pytest.fixture(scope="session")
def tokenizer(tiny_family: Path) -> Any:
    return CLIPTokenizer.from_pretrained(tiny_family / "tokenizer")


@pytest.fixture(scope="session")
def clipseg(tokenizer: Any) -> Any:
    return build_clipseg(tokenizer)


@pytest.fixture(scope="session")
def checker() -> Any:
    return build_checker()


@pytest.fixture(scope="session")
def perceptive_family(tiny_family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny family with perception."""
    return build_perceptive_family(tiny_family, tmp_path_factory.mktemp("perceptive") / "model")
