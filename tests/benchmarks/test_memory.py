from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import memory
from tests.weights import ldm_checkpoint as ldm
from weights import registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made of a family with the layers of Stable Diffusion XL and few channels."""
    monkeypatch.setattr(memory, "_FAMILIES", {"sdxl": ldm.small_sdxl_family(tmp_path / "family")})
    return memory.made(tmp_path, "sdxl")


def test_a_model_of_random_weights_is_whole(folder: Path) -> None:
    model_id = f"path:{folder}"
    assert registry.info(model_id).family == "sdxl"
    assert registry.load_unet(model_id).conv_in.weight.std() > 0.01
    # Once made, it is taken as it is.
    assert memory.made(folder.parent, "sdxl") == folder


@pytest.mark.parametrize("role", ["denoiser", "pipeline"])
def test_a_role_is_measured(role: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--family", "sdxl", "--role", role, "--model", f"path:{folder}", "--precision", "float32"]
    assert memory.main(own) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["import_gb"] <= found["loaded_gb"] <= found["peak_gb"]


def test_a_role_that_fails_says_why() -> None:
    asked = argparse.Namespace(family="sdxl", rows=2, precision="bfloat16")
    assert "no model nowhere" in memory._in_own_process("pipeline", "nowhere", asked)["failed"][0]
