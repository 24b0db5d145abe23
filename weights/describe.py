"""What a folder in diffusers layout can draw, read from its configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.types import SamplerName
from weights.errors import BrokenWeights

# Width of the text context by which the Stable Diffusion 1.x family is known.
_SD15_CONTEXT = 768


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model. Raises :class:`BrokenWeights` where it is missing."""
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BrokenWeights(f"Model file {path} is missing.") from error
    return config


def family_of(folder: Path) -> str:
    """``sd15``, or ``custom`` for what is not of a known family."""
    unet = read_config(folder / "unet" / "config.json")
    return "sd15" if unet["cross_attention_dim"] == _SD15_CONTEXT else "custom"


def facts_of(folder: Path) -> dict[str, Any]:
    """The fields of :class:`core.types.ModelInfo` that follow from the configs. Sizes in pixels."""
    unet = read_config(folder / "unet" / "config.json")
    vae = read_config(folder / "vae" / "config.json")
    text = read_config(folder / "text_encoder" / "config.json")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    vae_factor = 2 ** (len(vae["block_out_channels"]) - 1)
    multiple = vae_factor * 2 ** (len(unet["block_out_channels"]) - 1)
    default = unet["sample_size"] * vae_factor
    return {
        "default_size": default,
        "min_size": multiple * max(1, default // 2 // multiple),
        "max_size": default * 2,
        "size_multiple": multiple,
        "max_clip_skip": text["num_hidden_layers"] - 1,
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
        "default_sampler": SamplerName.DPMPP_2M_KARRAS.value,
        "default_num_inference_steps": 25,
        "default_guidance_scale": 7.5,
    }
