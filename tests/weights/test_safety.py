from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny_family import build_tiny_family
from tests.tiny_perception import build_checker
from weights.safety import load_safety


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("tiny"))


def test_a_model_without_a_checker_has_none(family: Path) -> None:
    assert load_safety(f"path:{family}") is None


def test_a_saved_checker_is_loaded_as_it_was(family: Path, tmp_path: Path) -> None:
    for entry in family.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    saved = build_checker()
    saved.save_pretrained(tmp_path / "safety_checker")
    loaded = load_safety(f"path:{tmp_path}")
    assert loaded is not None
    checker, facts = loaded
    assert facts.size == 32
    assert not checker.training
    for name, tensor in saved.state_dict().items():
        assert torch.equal(checker.state_dict()[name], tensor), name
