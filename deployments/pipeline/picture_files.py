"""A finished picture as a file that says how it was made. Knows A1111's names; nothing of models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from core import images
from core.specs import GenerationSpec
from core.types import Picture, SamplerName
from deployments.pipeline.painting import Stroke

# The names that the A1111 web UI and the tools around it know.
_SAMPLER_LABELS = {
    SamplerName.DDIM: "DDIM",
    SamplerName.EULER: "Euler",
    SamplerName.EULER_A: "Euler a",
    SamplerName.DPMPP_2M: "DPM++ 2M",
    SamplerName.DPMPP_2M_KARRAS: "DPM++ 2M Karras",
    SamplerName.LCM: "LCM",
}


async def picture_of(
    pixels: npt.NDArray[np.uint8],
    spec: GenerationSpec,
    stroke: Stroke,
    model_id: str,
    extra: Mapping[str, object] | None = None,
) -> Picture:
    """``pixels`` ``[height, width, 3]`` as a picture file; ``extra`` parameters follow the common ones."""
    stroke.painted_at = time.monotonic()
    height, width = pixels.shape[:2]
    parameters = {
        **_parameters(spec, stroke.seed, width, height, model_id),
        **(extra or {}),
        **spec.parameters,
    }
    text = images.parameters_text(spec.prompt, spec.negative_prompt, parameters)
    image = await asyncio.to_thread(
        images.encode, pixels, spec.output_format, quality=spec.quality, parameters=text
    )
    return Picture(stroke.index, stroke.seed, image, spec.output_format.media_type, width, height)


def _parameters(spec: GenerationSpec, seed: int, width: int, height: int, model_id: str) -> dict[str, object]:
    parameters: dict[str, object] = {
        "Steps": spec.num_inference_steps,
        "Sampler": _SAMPLER_LABELS[spec.sampler],
        "CFG scale": spec.guidance_scale,
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": model_id,
    }
    if spec.few_step:
        parameters["Few-step adapter"] = True
    if spec.clip_skip:
        # A1111 counts from 1 for none.
        parameters["Clip skip"] = spec.clip_skip + 1
    if spec.hires is not None:
        parameters["Hires upscale"] = spec.hires.scale
        parameters["Hires upscaler"] = "Lanczos"
        # Last pass alone; A1111 gives an image-to-image strength under the same name.
        parameters["Denoising strength"] = spec.hires.strength
    return parameters
