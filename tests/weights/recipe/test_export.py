import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from weights.recipe import export, sample
from weights.recipe.latents import fit_preview
from weights.recipe.tokenizer import build_tokenizer, save_tokenizer, train_merges


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    save_tokenizer(build_tokenizer(train_merges(["a red robot"] * 4, 600)), root / "tokenizer")
    export.main(["--tokenizer", str(root / "tokenizer"), "--out", str(root / "mini")])
    return root


def test_the_folder_is_a_complete_half_precision_pipeline(folder: Path) -> None:
    total = sum(path.stat().st_size for path in (folder / "mini").rglob("*.safetensors"))
    assert 20e6 < total < 40e6
    scheduler = json.loads((folder / "mini" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["rescale_betas_zero_snr"]
    assert scheduler["timestep_spacing"] == "trailing"
    assert not any("_name_or_path" in path.read_text() for path in (folder / "mini").rglob("*config.json"))


def test_the_plain_pipeline_draws_with_it(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "mini")
    assert pipeline.text_encoder.dtype == pipeline.unet.dtype == torch.float32
    row = sample.draw(pipeline, ["a robot", "a red robot"], guidance=2.0, steps=1, seed=0)
    assert row.size == (256, 128)


def test_writing_again_replaces_parts_and_keeps_other_files(folder: Path) -> None:
    (folder / "mini" / "LICENSE").write_text("kept")
    stale = folder / "mini" / "unet" / "stale.bin"
    stale.write_bytes(b"old")
    export.main(["--tokenizer", str(folder / "tokenizer"), "--out", str(folder / "mini")])
    assert (folder / "mini" / "LICENSE").read_text() == "kept"
    assert not stale.exists()
    assert sorted(path.name for path in folder.iterdir()) == ["mini", "tokenizer"]


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        export.averaged(tmp_path)


def test_the_preview_recovers_a_linear_map() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pictures = colours.repeat(4, axis=1).repeat(4, axis=2)
    rgb = torch.from_numpy(colours).permute(0, 3, 1, 2) / 255
    latents = torch.cat([2 * rgb - 1, torch.randn(2, 1, 8, 8)], dim=1)
    preview = fit_preview(latents, pictures)
    expected = torch.cat([torch.eye(3) / 2, torch.zeros(1, 3)])
    assert torch.allclose(torch.tensor(preview["matrix"]), expected, atol=1e-4)
    assert torch.allclose(torch.tensor(preview["bias"]), torch.full((3,), 0.5), atol=1e-4)
