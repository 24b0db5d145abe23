"""Stable Diffusion checkpoints of any published layout to one layout: diffusers folders in float16.

Reads single files with LDM keys and diffusers folders. Every tensor must have a place in the networks that
the configs describe, and every place a tensor. Knows nothing of sources and hashes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights import clip_bpe, ldm
from weights.errors import RefusedWeights
from weights.tensor_file import Tensor, read_tensors, write_float16

SD15 = Path(__file__).with_name("families") / "sd15"
_CONTEXT_WIDTHS = {1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
# Where diffusers and transformers look for the weights of a part.
WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
# Not parameters: buffers and heads that older versions saved along.
_NOT_TEXT = {
    f"text_model.{name}" for name in ("embeddings.position_ids", "text_projection.weight", "logit_scale")
}
_PICKLES = ("bin", "ckpt", "pt", "pth")
_NUM_NAMED = 3


@dataclass(frozen=True)
class Checkpoint:
    """What a source holds, in diffusers' names. ``configs`` maps parts to their configs."""

    parts: Mapping[str, Mapping[str, Tensor]]
    configs: Mapping[str, Mapping[str, Any]]
    scheduler: Mapping[str, Any]
    tokenizer: Path | None = None

    @property
    def in_channels(self) -> int:
        """4, or 9 for inpainting: latents, mask and masked picture."""
        return int(self.configs["unet"]["in_channels"])


def read_single_file(path: Path, family: Path = SD15) -> Checkpoint:
    """A file with LDM keys: UNet, text encoder, and an autoencoder unless it was left out.

    Averaged (EMA) copies and the constants of the noise schedule are passed over. Raises
    :class:`RefusedWeights` for a file of another model family.
    """
    tensors = read_tensors(path)
    configs = _family_configs(family)
    _check_family(path, tensors, configs)
    unet_config = {**configs["unet"], "in_channels": tensors[ldm.FIRST_CONVOLUTION].shape[1]}
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "vae": {}, "text_encoder": {}}
    num_levels = len(configs["vae"]["block_out_channels"])
    for key, tensor in tensors.items():
        if key.startswith(ldm.UNET_PREFIX):
            name = ldm.unet_name(key.removeprefix(ldm.UNET_PREFIX), unet_config["layers_per_block"])
            parts["unet"][name or key] = tensor
        elif key.startswith(ldm.VAE_PREFIX) and ".loss." not in key and ".model_ema." not in key:
            name = ldm.vae_name(key.removeprefix(ldm.VAE_PREFIX), num_levels)
            parts["vae"][name or key] = tensor
        elif key.startswith(ldm.TEXT_PREFIX):
            parts["text_encoder"][key.removeprefix(ldm.TEXT_PREFIX)] = tensor
    if not parts["text_encoder"]:
        raise RefusedWeights(f"{path.name} is refused: it has no text encoder ({ldm.TEXT_PREFIX}*).")
    parts["text_encoder"] = _modern_names("text_encoder", parts["text_encoder"])
    if not parts["vae"]:
        del parts["vae"]
    scheduler = dict(_read_json(family / "scheduler" / "scheduler_config.json"))
    # Two empty tensors by which fine-tunes of the 1.x architecture say how they were trained.
    if "v_pred" in tensors:
        scheduler["prediction_type"] = "v_prediction"
    if "ztsnr" in tensors:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return Checkpoint(parts, {**configs, "unet": unet_config}, scheduler)


def _check_family(
    path: Path, tensors: Mapping[str, Tensor], configs: Mapping[str, Mapping[str, Any]]
) -> None:
    if ldm.FIRST_CONVOLUTION not in tensors:
        raise RefusedWeights(
            f"{path.name} is refused: it is no Stable Diffusion checkpoint in one file ({ldm.UNET_PREFIX}*)."
        )
    attention = tensors.get(ldm.FIRST_CROSS_ATTENTION)
    width, wanted = (attention.shape[-1] if attention else 0), configs["unet"]["cross_attention_dim"]
    if width != wanted:
        named = _CONTEXT_WIDTHS.get(width, "another model family")
        raise RefusedWeights(
            f"{path.name} is refused: its text context is {width} wide, not {wanted}; it looks like {named}."
        )


def read_folder(folder: Path, family: Path = SD15) -> Checkpoint:
    """A folder in diffusers layout, with its own configs; the family's where it has none.

    Of float32 and float16 files the smaller is read. Raises :class:`RefusedWeights` where a part is there
    as a pickle only.
    """
    parts, configs = {}, {}
    for part, config in _family_configs(family).items():
        path = weight_file(folder, part)
        if path is None and part == "vae":
            continue
        if path is None:
            raise RefusedWeights(f"{folder} is refused: there are no weights in {folder / part}.")
        own = folder / part / "config.json"
        configs[part] = _read_json(own) if own.exists() else config
        parts[part] = _modern_names(part, read_tensors(path))
    own_scheduler = folder / "scheduler" / "scheduler_config.json"
    tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else None
    scheduler = _read_json(
        own_scheduler if own_scheduler.exists() else family / "scheduler" / "scheduler_config.json"
    )
    return Checkpoint(parts, {**_family_configs(family), **configs}, scheduler, tokenizer)


def weight_file(folder: Path, part: str) -> Path | None:
    """The safetensors file of ``part``; None where there is nothing, refused where there is only a pickle."""
    name = Path(WEIGHT_FILES[part])
    for file in (f"{name.stem}.fp16{name.suffix}", name.name):
        if (folder / part / file).is_file():
            return folder / part / file
    if sharded := sorted((folder / part).glob("*.safetensors.index.json")):
        raise RefusedWeights(f"{sharded[0]} is refused: weights in several files are not read.")
    pickles = [path for kind in _PICKLES for path in (folder / part).glob(f"*.{kind}")]
    if pickles:
        raise RefusedWeights(
            f"{pickles[0]} is refused: a pickle can run code when it is opened. Look for a .safetensors file "
            f"of {part}, or convert it on a machine that holds nothing of value."
        )
    return None


def read_vae(path: Path, family: Path = SD15) -> Mapping[str, Tensor]:
    """An autoencoder alone, in diffusers or LDM names, with or without ``first_stage_model.``"""
    tensors = read_tensors(path)
    num_levels = len(_family_configs(family)["vae"]["block_out_channels"])
    if any(".down_blocks." in key for key in tensors):
        return _modern_names("vae", tensors)
    bare = {key.removeprefix(ldm.VAE_PREFIX): tensor for key, tensor in tensors.items()}
    halves = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    kept = {key: tensor for key, tensor in bare.items() if key.startswith(halves)}
    return {ldm.vae_name(key, num_levels) or key: tensor for key, tensor in kept.items()}


def write_model(checkpoint: Checkpoint, target: Path, family: Path = SD15) -> None:
    """Write ``checkpoint`` to the new folder ``target`` in diffusers layout, floats as float16.

    Raises :class:`RefusedWeights` where tensors and networks do not fit each other.
    """
    for part, tensors in checkpoint.parts.items():
        config = dict(checkpoint.configs[part])
        shapes = expected_shapes(part, config)
        placed = _placed(part, tensors, shapes)
        (target / part).mkdir(parents=True)
        write_float16(target / part / WEIGHT_FILES[part], placed, shapes)
        _write_json(target / part / "config.json", config)
    (target / "scheduler").mkdir()
    _write_json(target / "scheduler" / "scheduler_config.json", checkpoint.scheduler)
    if checkpoint.tokenizer is None:
        clip_bpe.write_tokenizer(target / "tokenizer", family / "tokenizer" / "tokenizer_config.json")
    else:
        (target / "tokenizer").mkdir()
        for path in checkpoint.tokenizer.iterdir():
            if path.suffix in (".json", ".txt"):
                shutil.copyfile(path, target / "tokenizer" / path.name)
    shutil.copyfile(family / "model_index.json", target / "model_index.json")
    width = _family_configs(family)["unet"]["cross_attention_dim"]
    if checkpoint.configs["unet"]["cross_attention_dim"] == width:
        shutil.copyfile(family / "preview.json", target / "preview.json")


def expected_shapes(part: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the network that ``config`` describes; nothing is allocated."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if part == "text_encoder":
            network: torch.nn.Module = CLIPTextModel(CLIPTextConfig(**config))
        else:
            network = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(dict(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if part != "text_encoder":
        return shapes
    return {ldm.text_name(name): shape for name, shape in shapes.items()}


def _placed(
    part: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Exactly the tensors of ``shapes``. A linear layer may come as a 1 × 1 convolution."""
    left_over = [name for name in tensors if name not in shapes]
    missing = [name for name in shapes if name not in tensors]
    misshapen = [
        name
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape not in (shape, (*shape, 1, 1))
    ]
    faults = {"lacks": missing, "has no place for": left_over, "has another shape for": misshapen}
    for what, names in faults.items():
        if names:
            listed = ", ".join(names[:_NUM_NAMED]) + (", …" if len(names) > _NUM_NAMED else "")
            raise RefusedWeights(f"The {part} {what} {len(names)} of {len(shapes)} parameters: {listed}.")
    return {name: tensors[name] for name in shapes}


def _modern_names(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if part == "vae":
        return {ldm.modern_vae_name(key): tensor for key, tensor in tensors.items()}
    if part == "text_encoder":
        named = {ldm.text_name(key): tensor for key, tensor in tensors.items()}
        return {key: tensor for key, tensor in named.items() if key not in _NOT_TEXT}
    return dict(tensors)


def _family_configs(family: Path) -> dict[str, dict[str, Any]]:
    return {part: _read_json(family / part / "config.json") for part in WEIGHT_FILES}


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
