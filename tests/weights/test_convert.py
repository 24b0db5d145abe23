"""Converted files against the networks they came from, and against diffusers' own conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from tests.weights import ldm_checkpoint as ldm
from weights import convert, single_file
from weights.errors import RefusedWeights

CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ldm.small_family(tmp_path_factory.mktemp("small") / "family")


@pytest.fixture(scope="module")
def parts(family: Path) -> dict[str, Any]:
    return ldm.networks(family)


def assert_holds(folder: Path, parts: dict[str, Any]) -> None:
    """Every part loads without a tensor too many or too few and equals the network, rounded to float16."""
    for part, network in parts.items():
        loaded, report = CLASSES[part].from_pretrained(
            folder / part, dtype=torch.float16, local_files_only=True, output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        state = loaded.state_dict()
        assert state.keys() == network.state_dict().keys()
        for name, value in network.state_dict().items():
            assert torch.equal(state[name], value.half()), (part, name)


def test_the_layout_of_these_tests_is_the_one_diffusers_reads(family: Path, parts: dict[str, Any]) -> None:
    tensors = ldm.checkpoint(parts)
    config = json.loads((family / "unet" / "config.json").read_text())
    unet = convert_ldm_unet_checkpoint(dict(tensors), config)
    assert unet.keys() == parts["unet"].state_dict().keys()
    vae = convert_ldm_vae_checkpoint(dict(tensors), json.loads((family / "vae" / "config.json").read_text()))
    assert vae.keys() == parts["vae"].state_dict().keys()
    for name, value in (parts["unet"].state_dict() | parts["vae"].state_dict()).items():
        assert torch.equal((unet | vae)[name], value), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_a_single_file_becomes_a_folder_with_exactly_its_tensors(
    dtype: torch.dtype, family: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    path = ldm.save(ldm.checkpoint(parts, ema=True), tmp_path / "model.safetensors", dtype)
    convert.write_model(single_file.read_single_file(path, family), tmp_path / "out", family)
    rounded = {part: network.to(dtype).float() for part, network in ldm.networks(family).items()}
    assert_holds(tmp_path / "out", rounded)
    for file in (tmp_path / "out").rglob("*.safetensors"):
        assert {value.dtype for value in load_file(file).values()} == {torch.float16}


def test_a_nine_channel_unet_keeps_its_channels(family: Path, tmp_path: Path) -> None:
    parts = ldm.networks(family, in_channels=9)
    path = ldm.save(ldm.checkpoint(parts), tmp_path / "inpaint.safetensors")
    found = single_file.read_single_file(path, family)
    assert found.in_channels == 9
    convert.write_model(found, tmp_path / "out", family)
    assert_holds(tmp_path / "out", parts)


def test_a_file_may_leave_the_autoencoder_out(family: Path, parts: dict[str, Any], tmp_path: Path) -> None:
    path = ldm.save(ldm.checkpoint(parts, vae=False), tmp_path / "no-vae.safetensors")
    found = single_file.read_single_file(path, family)
    assert set(found.parts) == {"unet", "text_encoder"}


@pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
@pytest.mark.parametrize("named_by", ["ldm", "diffusers", "old diffusers"])
def test_an_autoencoder_alone_is_read_under_every_name(
    prefix: str, named_by: str, family: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    state = parts["vae"].state_dict()
    if named_by == "ldm":
        everything = ldm.checkpoint(parts, vae_prefix=prefix)
        tensors = {
            key: value
            for key, value in everything.items()
            if key.startswith(prefix or ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
        }
        tensors["model_ema.decay"] = torch.tensor(0.9)
    elif named_by == "diffusers":
        tensors = dict(state)
    else:
        old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        tensors = {}
        for key, value in state.items():
            for new_name, old_name in old.items():
                key = key.replace(new_name, old_name)
            tensors[key] = value
    save_file(tensors, tmp_path / "vae.safetensors")
    read = convert.read_vae(tmp_path / "vae.safetensors", family)
    assert read.keys() == state.keys()
    for name, tensor in read.items():
        assert tensor.shape in (tuple(state[name].shape), (*state[name].shape, 1, 1))


def test_markers_of_v_prediction_are_heeded(family: Path, parts: dict[str, Any], tmp_path: Path) -> None:
    marked = ldm.checkpoint(parts) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = ldm.save(marked, tmp_path / "v.safetensors")
    scheduler = single_file.read_single_file(path, family).scheduler
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["rescale_betas_zero_snr"] is True


def test_a_diffusers_folder_is_read_with_its_own_configs(
    family: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    for part, network in parts.items():
        network.save_pretrained(tmp_path / "in" / part)
    convert.write_model(convert.read_folder(tmp_path / "in", family), tmp_path / "out", family)
    assert_holds(tmp_path / "out", parts)
    assert (tmp_path / "out" / "tokenizer" / "vocab.json").exists()


def test_of_two_precisions_in_a_folder_the_smaller_is_read(parts: dict[str, Any], tmp_path: Path) -> None:
    parts["vae"].save_pretrained(tmp_path / "vae")
    half = tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    half.write_bytes(b"")
    assert convert.weight_file(tmp_path, "vae") == half


def test_a_folder_with_a_pickle_alone_is_refused_and_says_so(family: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    torch.save({}, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        RefusedWeights, match=r"diffusion_pytorch_model\.bin is refused: a pickle can run code"
    ):
        convert.read_folder(tmp_path, family)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", "The unet lacks 1 of"),
        ("add", "The unet has no place for 1 of"),
        ("reshape", "The unet has another shape for 1 of"),
        ("no text", "it has no text encoder"),
        ("wide", "its text context is 1024 wide, not 16; it looks like Stable Diffusion 2.x"),
        ("other", "it is no Stable Diffusion checkpoint"),
    ],
)
def test_what_does_not_fit_the_family_is_refused(
    change: str, message: str, family: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    tensors = ldm.checkpoint(parts)
    prefix = "model.diffusion_model."
    attention = f"{prefix}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    if change == "drop":
        del tensors[f"{prefix}output_blocks.5.2.conv.weight"]
    elif change == "add":
        tensors[f"{prefix}label_emb.0.0.weight"] = torch.zeros(3)
    elif change == "reshape":
        tensors[f"{prefix}out.2.bias"] = torch.zeros(5)
    elif change == "no text":
        tensors = {key: value for key, value in tensors.items() if not key.startswith("cond_stage")}
    elif change == "wide":
        tensors[attention] = torch.zeros(8, 1024)
    else:
        tensors = {"lora.up.weight": torch.zeros(2, 2)}
    path = ldm.save(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(RefusedWeights, match=message):
        convert.write_model(single_file.read_single_file(path, family), tmp_path / "out", family)


@pytest.mark.parametrize(
    ("part", "in_channels", "num_tensors", "num_parameters"),
    [("unet", 4, 686, 859_520_964), ("unet", 9, 686, 859_535_364), ("vae", 4, 248, 83_653_863)],
)
def test_the_familys_configs_describe_stable_diffusion(
    part: str, in_channels: int, num_tensors: int, num_parameters: int
) -> None:
    config = json.loads((convert.SD15 / part / "config.json").read_text())
    if part == "unet":
        config["in_channels"] = in_channels
    shapes = convert.expected_shapes(part, config)
    assert len(shapes) == num_tensors
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == num_parameters


def test_the_familys_text_encoder_is_clip_vit_l() -> None:
    config = json.loads((convert.SD15 / "text_encoder" / "config.json").read_text())
    shapes = convert.expected_shapes("text_encoder", config)
    assert len(shapes) == 196
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 123_060_480
