"""Checkpoints in one file with the keys of the latent-diffusion code: which family one is of, and its parts.

Knows keys and families; nothing of what becomes of the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weights import ldm, open_clip
from weights.convert import SD15, SDXL, Checkpoint, family_configs, modern_names
from weights.describe import read_config
from weights.errors import RefusedWeights
from weights.tensor_file import Tensor, read_tensors

# By the width of its text context.
_FAMILIES = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "the refiner of Stable Diffusion XL",
    2048: "Stable Diffusion XL",
}
_SIZE_EMBEDDING = f"{ldm.UNET_PREFIX}label_emb.0.0.weight"
_TEXT_PREFIXES = {
    ldm.TEXT_PREFIX: "text_encoder",
    ldm.FIRST_TEXT_PREFIX: "text_encoder",
    ldm.SECOND_TEXT_PREFIX: "text_encoder_2",
}
Parts = dict[str, dict[str, Tensor]]


def family_of_file(path: Path) -> Path:
    """The family that a file is to be read as: that of Stable Diffusion XL, whose UNet has an embedding of
    sizes, or else that of 1.x."""
    return SDXL if _SIZE_EMBEDDING in read_tensors(path) else SD15


def read_single_file(path: Path, family: Path = SD15) -> Checkpoint:
    """A file with LDM keys: UNet, text encoders, and an autoencoder unless it was left out.

    Averaged (EMA) copies and the constants of the noise schedule are passed over. Raises
    :class:`RefusedWeights` for a file of another model family.
    """
    tensors = read_tensors(path)
    configs = family_configs(family)
    _check_family(path, tensors, configs)
    unet_config = {**configs["unet"], "in_channels": tensors[ldm.FIRST_CONVOLUTION].shape[1]}
    parts = _sorted(tensors, {**configs, "unet": unet_config})
    for part in (name for name in ("text_encoder", "text_encoder_2") if name in configs):
        if not parts[part]:
            prefixes = [prefix for prefix, known in _TEXT_PREFIXES.items() if known == part]
            which = "text encoder" if part == "text_encoder" else "second text encoder"
            prefix = prefixes[-1 if "text_encoder_2" in configs else 0]
            raise RefusedWeights(f"{path.name} is refused: it has no {which} ({prefix}*).")
    if not parts["vae"]:
        del parts["vae"]
    scheduler = read_config(family / "scheduler" / "scheduler_config.json")
    # Two empty tensors by which fine-tunes say how they were trained.
    if "v_pred" in tensors:
        scheduler["prediction_type"] = "v_prediction"
    if "ztsnr" in tensors:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return Checkpoint(parts, {**configs, "unet": unet_config}, scheduler)


def _sorted(tensors: Mapping[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Parts:
    """The tensors by part, in diffusers' names where there is one."""
    parts: Parts = {part: {} for part in configs}
    num_levels = len(configs["vae"]["block_out_channels"])
    for key, tensor in tensors.items():
        if key.startswith(ldm.UNET_PREFIX):
            name = ldm.unet_name(key.removeprefix(ldm.UNET_PREFIX), configs["unet"]["layers_per_block"])
            parts["unet"][name or key] = tensor
        elif key.startswith(ldm.VAE_PREFIX) and ".loss." not in key and ".model_ema." not in key:
            name = ldm.vae_name(key.removeprefix(ldm.VAE_PREFIX), num_levels)
            parts["vae"][name or key] = tensor
        else:
            for prefix, part in _TEXT_PREFIXES.items():
                if part in parts and key.startswith(prefix):
                    parts[part][key.removeprefix(prefix)] = tensor
    if "text_encoder_2" in parts:
        parts["text_encoder_2"] = open_clip.named_by_transformers(parts["text_encoder_2"])
    return {part: modern_names(part, own) for part, own in parts.items()}


def _check_family(
    path: Path, tensors: Mapping[str, Tensor], configs: Mapping[str, Mapping[str, Any]]
) -> None:
    if ldm.FIRST_CONVOLUTION not in tensors:
        raise RefusedWeights(
            f"{path.name} is refused: it is no Stable Diffusion checkpoint in one file ({ldm.UNET_PREFIX}*)."
        )
    width, wanted = _context_width(tensors), configs["unet"]["cross_attention_dim"]
    if width != wanted:
        named = _FAMILIES.get(width, "another model family")
        raise RefusedWeights(
            f"{path.name} is refused: its text context is {width} wide, not {wanted}; it looks like {named}."
        )


def _context_width(tensors: Mapping[str, Tensor]) -> int:
    """0 where there is no cross-attention in its place."""
    found = (tensors[key].shape[-1] for key in ldm.FIRST_CROSS_ATTENTIONS if key in tensors)
    return next(found, 0)
