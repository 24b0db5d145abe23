"""What is to be done for one request, every open question answered: the seam between presets and painting.

Knows words and numbers; whoever makes a plan need not know masks, latents or the Denoiser.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from core.specs import InpaintMode, InpaintSpec
from deployments.pipeline.captions import Description
from deployments.pipeline.inpainting.conditioning import Conditioning
from deployments.pipeline.inpainting.passes import Reach
from deployments.pipeline.inpainting.words import words_for

_DATA = Path(__file__).with_name("plans.toml")


class Prefill(StrEnum):
    """What stands inside the mask before the model paints. Beyond a picture's edges they go on."""

    PICTURE = "picture"
    SURROUNDINGS = "surroundings"


@dataclass(frozen=True, slots=True, kw_only=True)
class InpaintPlan:
    """How a request is carried out.

    ``mask_grow`` and ``mask_feather`` are in pixels of the picture. ``strength`` in (0, 1] is the share of
    the trajectory that is taken, from the prefilled picture; at 1 the mask starts from noise alone.
    ``matched`` moves the tone of what was painted to that of its surroundings; ``reach`` is for
    outpainting. Below a ``fitting_degree`` of 1 the mask is loosened towards its bounding box.
    ``conditioning`` turns prompts into embeddings and tells the UNet of the mask.
    """

    prompt: str
    negative_prompt: str
    strength: float
    guidance_scale: float
    mask_grow: int
    mask_feather: int
    prefill: Prefill
    matched: bool
    reach: Reach
    conditioning: Conditioning
    fitting_degree: float = 1.0


def plan_of(
    spec: InpaintSpec,
    description: Description | None,
    conditioning: Conditioning,
    *,
    family: str,
    scale: float,
) -> InpaintPlan:
    """The plan of ``spec`` by the data of the model's ``family``; what ``spec`` says itself counts first.

    ``scale`` is how many pixels of the picture the model sees as one.
    """
    words = words_for(spec, description, family)
    modes = _modes(family, nine_channels=conditioning.num_extra_channels > 0)
    mode = modes[spec.mode]
    return InpaintPlan(
        prompt=words.prompt,
        negative_prompt=words.negative_prompt,
        strength=mode["strength"] if spec.strength is None else spec.strength,
        guidance_scale=spec.guidance_scale,
        mask_grow=round(mode["mask_grow"] * scale) if spec.mask_grow is None else spec.mask_grow,
        mask_feather=round(mode["mask_feather"] * scale) if spec.mask_feather is None else spec.mask_feather,
        prefill=Prefill(mode["prefill"]),
        matched=spec.mode is InpaintMode.OUTPAINT,
        reach=Reach(**modes["reach"]),
        conditioning=conditioning,
    )


def _modes(family: str, *, nine_channels: bool) -> Mapping[str, Mapping[str, Any]]:
    families = _families()
    if nine_channels:
        return families["nine_channels"]
    return families.get(family, families["default"])


@cache
def _families() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    return tomllib.loads(_DATA.read_text("utf-8"))
