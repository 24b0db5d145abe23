"""What a folder in diffusers layout can draw, read from its configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.types import SamplerName
from weights.errors import BrokenWeights, RefusedWeights

# Width of the text context by which the Stable Diffusion 1.x family is known.
_SD15_CONTEXT = 768
_TEXTS = ("text_encoder", "text_encoder_2")
# What the families are commonly guided by, where a model does not say.
_GUIDANCE = {"sdxl": 5.0}
_ANY_GUIDANCE = 7.5


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model. Raises :class:`BrokenWeights` where it is missing."""
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BrokenWeights(f"Model file {path} is missing.") from error
    return config


def family_of(folder: Path) -> str:
    """``sd15``, ``sdxl``, or ``custom`` for what is not of a known family."""
    if is_sdxl(folder):
        return "sdxl"
    unet = read_config(folder / "unet" / "config.json")
    return "sd15" if unet["cross_attention_dim"] == _SD15_CONTEXT else "custom"


def is_sdxl(folder: Path) -> bool:
    """Whether a folder in diffusers layout is of the Stable Diffusion XL family, by its pipeline's class or,
    where it does not say, by the added conditions of its UNet."""
    index = folder / "model_index.json"
    named = read_config(index).get("_class_name") if index.exists() else None
    if named is not None:
        return str(named).startswith("StableDiffusionXL")
    unet = folder / "unet" / "config.json"
    return unet.exists() and read_config(unet).get("addition_embed_type") == "text_time"


def facts_of(folder: Path) -> dict[str, Any]:
    """The fields of :class:`core.types.ModelInfo` that follow from the configs. Sizes in pixels.

    Raises :class:`RefusedWeights` for a variant that is not supported.
    """
    unet = read_config(folder / "unet" / "config.json")
    vae = read_config(folder / "vae" / "config.json")
    sdxl = is_sdxl(folder)
    _check_supported(folder, vae, sdxl=sdxl)
    # Stable Diffusion XL reads its encoders one layer before the last.
    texts = [read_config(folder / part / "config.json") for part in _TEXTS[: 2 if sdxl else 1]]
    num_layers = min(text["num_hidden_layers"] for text in texts) - (1 if sdxl else 0)
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    vae_factor = 2 ** (len(vae["block_out_channels"]) - 1)
    multiple = vae_factor * 2 ** (len(unet["block_out_channels"]) - 1)
    default = unet["sample_size"] * vae_factor
    return {
        "default_size": default,
        "min_size": multiple * max(1, default // 2 // multiple),
        "max_size": default * 2,
        "size_multiple": multiple,
        "max_clip_skip": num_layers - 1,
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
        "default_sampler": SamplerName.DPMPP_2M_KARRAS.value,
        "default_num_inference_steps": 25,
        "default_guidance_scale": _GUIDANCE.get(family_of(folder), _ANY_GUIDANCE),
    }


def _check_supported(folder: Path, vae: dict[str, Any], *, sdxl: bool) -> None:
    if sdxl and not all((folder / part).is_dir() for part in _TEXTS):
        raise RefusedWeights(
            f"{folder} is refused: it has one text encoder only, as the refiner of Stable Diffusion XL does. "
            "The refiner is not supported; the base model draws complete pictures without it."
        )
    if vae.get("latents_mean") is not None or vae.get("shift_factor"):
        raise RefusedWeights(
            f"{folder} is refused: its autoencoder shifts its latents, as Playground's does, "
            "which is not supported."
        )
