"""Checkpoints of Stable Diffusion XL in one file and in folders: read, imported, completed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection

from core.types import SamplerName
from tests.tiny_sdxl import build_tiny_sdxl
from tests.weights import ldm_checkpoint as ldm
from weights import convert, install, registry, single_file
from weights.catalogue import entries, read_manifest
from weights.errors import BrokenWeights, RefusedWeights
from weights.tensor_file import read_tensors, write_float16

MANIFEST = """
[models.masks]
family = "sd15"
also_for = ["sdxl"]
role = "perception"
part = "clipseg"
layout = "files"

[models.edges]
family = "sd15"
role = "controlnet"
layout = "files"

[models.autoencoder]
family = "sd15"
role = "vae"
layout = "files"

[models.autoencoder-xl]
family = "sdxl"
role = "vae"
layout = "files"
[models.autoencoder-xl.downloads]
"vae.safetensors" = { url = "http://localhost/vae.safetensors", to = "diffusion_pytorch_model.safetensors" }
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ldm.small_sdxl_family(tmp_path_factory.mktemp("small") / "sdxl")


@pytest.fixture(scope="module")
def parts(family: Path) -> dict[str, Any]:
    return ldm.networks(family)


@pytest.fixture
def weights(tmp_path: Path, family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights folder, and families of the same layers with few channels."""
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "weights"))
    ldm.small_family(tmp_path / "families" / "sd15")
    (tmp_path / "families" / "sdxl").symlink_to(family)
    monkeypatch.setattr(install, "FAMILIES", tmp_path / "families")
    return tmp_path / "weights"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST)
    read_manifest.cache_clear()
    return path


def assert_holds(model_id: str, manifest: Path, parts: dict[str, Any]) -> None:
    """Every part of the installed model equals the network it came from, rounded to float16."""
    loaded = {
        "unet": registry.load_unet(model_id, manifest),
        "vae": registry.load_vae(model_id, manifest),
        "text_encoder": registry.load_text(model_id, manifest)[1],
        "text_encoder_2": registry.load_second_text(model_id, manifest)[1],
    }
    for part, network in parts.items():
        state: dict[str, torch.Tensor] = loaded[part].state_dict()
        assert state.keys() == network.state_dict().keys()
        for name, value in network.state_dict().items():
            assert torch.equal(state[name], value.half().float()), (part, name)


def test_the_layout_of_these_tests_is_the_one_diffusers_reads(family: Path, parts: dict[str, Any]) -> None:
    tensors = ldm.checkpoint(parts)
    unet = convert_ldm_unet_checkpoint(
        dict(tensors), json.loads((family / "unet" / "config.json").read_text())
    )
    for name, value in parts["unet"].state_dict().items():
        assert torch.equal(unet[name], value), name
    own = parts["text_encoder_2"]
    text = convert_open_clip_checkpoint(own, dict(tensors), prefix="conditioner.embedders.1.model.")
    for name, value in own.state_dict().items():
        assert torch.equal(text[name], value), name


def test_a_single_file_is_imported_as_its_family(
    manifest: Path, weights: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    source = ldm.save(ldm.checkpoint(parts, ema=True), tmp_path / "dream.safetensors", torch.float16)
    entry = install.import_model(source, manifest=manifest)
    assert (entry.family, entry.role) == ("sdxl", "base")
    assert_holds("dream", manifest, parts)
    info = registry.info("dream", manifest)
    assert (info.default_size, info.size_multiple, info.max_clip_skip) == (64, 32, 1)
    assert (info.default_guidance_scale, info.default_sampler) == (5.0, SamplerName.DPMPP_2M_KARRAS)
    assert registry.zeroes_empty_prompts("dream", manifest)
    first, second = registry.load_text("dream", manifest)[0], registry.load_second_text("dream", manifest)[0]
    assert (first.pad_token, second.pad_token) == ("<|endoftext|>", "!")
    assert first("a cat").input_ids == second("a cat").input_ids == [49406, 320, 2368, 49407]
    assert registry.load_vae("dream", manifest).config.force_upcast


@pytest.mark.parametrize(("marks", "expected"), [((), "epsilon"), (("v_pred", "ztsnr"), "v_prediction")])
def test_a_fine_tune_says_how_it_was_trained(
    marks: tuple[str, ...], expected: str, family: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    tensors = ldm.checkpoint(parts) | {mark: torch.zeros(0) for mark in marks}
    found = single_file.read_single_file(ldm.save(tensors, tmp_path / "x.safetensors"), family)
    assert found.scheduler["prediction_type"] == expected


def test_a_nine_channel_file_is_a_companion_for_inpainting(
    manifest: Path, weights: Path, family: Path, tmp_path: Path
) -> None:
    parts = ldm.networks(family, in_channels=9)
    source = ldm.save(ldm.checkpoint(parts), tmp_path / "inpaint.safetensors")
    entry = install.import_model(source, manifest=manifest)
    assert (entry.family, entry.role, entry.part) == ("sdxl", "inpaint", "inpaint")
    assert registry.load_unet("inpaint", manifest).config.in_channels == 9


def test_a_folder_is_imported_with_both_tokenizers_and_its_options(
    manifest: Path, weights: Path, tmp_path: Path
) -> None:
    source = build_tiny_sdxl(tmp_path / "tiny", zero_empty=False)
    entry = install.import_model(source, name="tiny", manifest=manifest)
    assert entry.family == "sdxl"
    assert not registry.zeroes_empty_prompts("tiny", manifest)
    tokenizer, encoder = registry.load_second_text("tiny", manifest)
    assert isinstance(encoder, CLIPTextModelWithProjection)
    original = registry.load_second_text(f"path:{source}")[0]
    assert tokenizer("red hair").input_ids == original("red hair").input_ids
    assert registry.info("tiny", manifest).family == registry.info(f"path:{source}").family == "sdxl"


def test_a_file_without_autoencoder_takes_that_of_its_own_family(
    manifest: Path, weights: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    source = ldm.save(ldm.checkpoint(parts, vae=False), tmp_path / "bare.safetensors")
    with pytest.raises(RefusedWeights, match="limner weights pull sdxl-vae-fp16-fix"):
        install.import_model(source, manifest=manifest)
    downloaded = tmp_path / "downloads"
    downloaded.mkdir()
    ldm.save(parts["vae"].state_dict(), downloaded / "vae.safetensors")
    install.import_model(downloaded, name="autoencoder-xl", manifest=manifest)
    install.import_model(source, manifest=manifest)
    assert_holds("bare", manifest, parts)


def test_parts_for_several_families_complete_it(manifest: Path, weights: Path, tmp_path: Path) -> None:
    build_tiny_sdxl(tmp_path / "tiny")
    install.import_model(tmp_path / "tiny", name="tiny", manifest=manifest)
    for name in ("masks", "edges", "autoencoder"):
        (weights / name).mkdir()
        known = entries(manifest)[name]
        described = {"family": "sd15", "role": known.role, "part": known.part, "layout": "files", "files": {}}
        (weights / name / "model.json").write_text(json.dumps(described))
    assert registry.companions("tiny", manifest) == {"clipseg": "masks"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no second text", r"it has no second text encoder \(conditioner\.embedders\.1\.model\.\*\)"),
        ("no text", r"it has no text encoder \(conditioner\.embedders\.0\.transformer\.\*\)"),
        ("split", "The text_encoder_2 lacks 3 of"),
        ("refiner", "its text context is 1280 wide, not 40; it looks like the refiner"),
    ],
)
def test_what_is_no_whole_base_model_is_refused(
    change: str, message: str, family: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    tensors = ldm.checkpoint(parts)
    second = "conditioner.embedders.1.model."
    if change == "no second text":
        tensors = {key: value for key, value in tensors.items() if not key.startswith(second)}
    elif change == "no text":
        tensors = {key: value for key, value in tensors.items() if ".embedders.0." not in key}
    elif change == "split":
        tensors[f"{second}transformer.resblocks.0.attn.in_proj_weight"] = torch.zeros(70, 24)
    else:
        attention = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
        tensors[f"model.diffusion_model.{attention}"] = torch.zeros(16, 1280)
    path = ldm.save(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(RefusedWeights, match=message):
        convert.write_model(single_file.read_single_file(path, family), tmp_path / "out", family)


def test_a_folder_of_the_refiner_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_sdxl(tmp_path)
    (folder / "text_encoder").rename(folder / "elsewhere")
    with pytest.raises(RefusedWeights, match="The refiner is not supported"):
        registry.info(f"path:{folder}")


def test_an_autoencoder_that_shifts_its_latents_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_sdxl(tmp_path)
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latents_mean": [0.0] * 4}))
    with pytest.raises(RefusedWeights, match="shifts its latents"):
        registry.info(f"path:{folder}")


@pytest.mark.parametrize(
    ("part", "num_tensors", "num_parameters"),
    [
        ("unet", 1_680, 2_567_463_684),
        ("vae", 248, 83_653_863),
        ("text_encoder", 196, 123_060_480),
        ("text_encoder_2", 517, 694_659_840),
    ],
)
def test_the_familys_configs_describe_stable_diffusion_xl(
    part: str, num_tensors: int, num_parameters: int
) -> None:
    shapes = convert.expected_shapes(part, convert.family_configs(convert.SDXL)[part])
    assert len(shapes) == num_tensors
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == num_parameters


def test_rows_and_transposes_are_read_from_a_file(tmp_path: Path) -> None:
    matrix = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    (tensor,) = read_tensors(ldm.save({"x": matrix}, tmp_path / "x.safetensors")).values()
    write_float16(
        tmp_path / "out.safetensors",
        {"rows": tensor.part(1, 3), "turned": tensor.transpose()},
        {"rows": (2, 4), "turned": (4, 6)},
    )
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["rows"], matrix[2:4].half())
    assert torch.equal(found["turned"], matrix.T.half())


def test_a_folder_that_lacks_parameters_is_not_loaded(tmp_path: Path) -> None:
    folder = build_tiny_sdxl(tmp_path)
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    with pytest.raises(BrokenWeights, match=r"lacks .* parameters"):
        registry.load_unet(f"path:{folder}")
