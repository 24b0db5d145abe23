"""Pictures, masks and requests for the inpainting tests, and what came out of them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.specs import InpaintMode, InpaintSpec
from core.types import Completed, PipelineEvent, SamplerName
from deployments.pipeline.captions import Description
from deployments.pipeline.inpainting.conditioning import Conditioning
from deployments.pipeline.inpainting.pipeline import InpaintPipeline, MakePlan
from deployments.pipeline.inpainting.plan import InpaintPlan, plan_of

Pixels = npt.NDArray[np.uint8]


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def noise_picture(width: int, height: int, seed: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_mask(width: int, height: int, left: int, top: int, right: int, bottom: int) -> Pixels:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


PICTURE = noise_picture(32, 32)
MASK = box_mask(32, 32, 8, 4, 24, 28)
SPEC = InpaintSpec(
    request_id="r",
    prompt="red hair man",
    negative_prompt="dog",
    num_inference_steps=8,
    guidance_scale=5.0,
    seed=7,
    num_images=1,
    sampler=SamplerName.DDIM,
    image=png(PICTURE),
    mode=InpaintMode.REPLACE,
    mask=png(MASK),
    mask_grow=0,
    mask_feather=0,
    strength=1.0,
)


def planning(conditioning: Conditioning, family: str = "") -> MakePlan:
    """Plans without tasks."""

    def make(spec: InpaintSpec, description: Description | None, scale: float) -> InpaintPlan:
        return plan_of(spec, description, conditioning, family=family, scale=scale)

    return make


async def painted(pipeline: InpaintPipeline, spec: InpaintSpec) -> tuple[list[Pixels], list[PipelineEvent]]:
    """The pictures of ``spec`` and everything that was told on the way."""
    events = [event async for event in pipeline.generate(spec)]
    done = events[-1]
    assert isinstance(done, Completed)
    return [np.asarray(Image.open(io.BytesIO(each.image))) for each in done.pictures], events
