"""A picture made larger: Lanczos, then image-to-image over tiles that overlap. No ray, no HTTP.

Every tile is a request of its own, so the tiles share the running batch with everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from core.specs import GenerationSpec
from core.types import ModelInfo
from deployments.engine.request import noise_for
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.painting import Stroke, request_of
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.strength import start_step

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_OVERLAP = 0.25
# More tiles at once than a batch has rows would only queue, and push everybody else back.
_TILES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Refinement:
    """``width`` × ``height`` pixels, padded to the model's multiple, tiles at ``corners`` (left, top)."""

    width: int
    height: int
    padded_width: int
    padded_height: int
    tile_width: int
    tile_height: int
    corners: tuple[tuple[int, int], ...]
    start_step: int
    num_inference_steps: int

    @property
    def num_steps(self) -> int:
        """Denoising steps over all tiles."""
        return len(self.corners) * (self.num_inference_steps - self.start_step)


def plan_refinement(
    info: ModelInfo, width: int, height: int, strength: float, num_inference_steps: int
) -> Refinement:
    """How to redraw ``width`` × ``height`` pixels in tiles of the model's default size, row by row."""
    multiple = info.size_multiple
    padded_width, padded_height = (-(-side // multiple) * multiple for side in (width, height))
    tile_width, tile_height = (min(info.default_size, side) for side in (padded_width, padded_height))
    corners = tuple(
        (left, top)
        for top in _starts(padded_height, tile_height, multiple)
        for left in _starts(padded_width, tile_width, multiple)
    )
    first = start_step(num_inference_steps, strength)
    return Refinement(
        width,
        height,
        padded_width,
        padded_height,
        tile_width,
        tile_height,
        corners,
        first,
        num_inference_steps,
    )


def hires_of(spec: GenerationSpec, info: ModelInfo, width: int, height: int) -> Refinement | None:
    """The second pass that ``spec`` asks for over a picture of ``width`` × ``height``, if it does."""
    if spec.hires is None:
        return None
    large_width, large_height = (round(side * spec.hires.scale) for side in (width, height))
    return plan_refinement(info, large_width, large_height, spec.hires.strength, spec.num_inference_steps)


async def refine(
    pixels: Pixels,
    plan: Refinement,
    spec: GenerationSpec,
    stroke: Stroke,
    embeds: Embeds,
    parts: PipelineParts,
) -> Pixels:
    """``pixels`` at the size of ``plan``, details drawn anew; colours stay those of ``pixels``.

    The prompt is for pictures of one tile; several are drawn without words and without guidance.
    """
    if len(plan.corners) > 1:
        # A tile shows a part of the picture; told of the whole, it would draw all of it once more.
        spec, embeds = await _untold(spec, parts)
    large = await asyncio.to_thread(_enlarged, pixels, plan)
    _, h, w = parts.latent_shape(plan.padded_width, plan.padded_height)
    # One field of noise under all tiles, so that where they overlap they draw the same.
    noise = noise_for(stroke.seed, (parts.decoder.latent_channels, h, w))
    free = asyncio.Semaphore(_TILES_AT_ONCE)
    factor = parts.decoder.factor

    async def redraw(corner: tuple[int, int]) -> Pixels:
        left, top = corner
        tile = large[top : top + plan.tile_height, left : left + plan.tile_width]
        rows = slice(top // factor, (top + plan.tile_height) // factor)
        columns = slice(left // factor, (left + plan.tile_width) // factor)
        async with free:
            request = replace(
                request_of(spec, stroke, embeds, noise[:, rows, columns].clone(), factor),
                source=await parts.encoder.encode(tile),
                start_step=plan.start_step,
                preview_every=0,
            )
            return await parts.decoder.decode(await stroke.denoise(request))

    tasks = [asyncio.create_task(redraw(corner)) for corner in plan.corners]
    try:
        tiles = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return await asyncio.to_thread(_assembled, large, tiles, plan)


async def _untold(spec: GenerationSpec, parts: PipelineParts) -> tuple[GenerationSpec, Embeds]:
    spec = replace(spec, prompt="", negative_prompt="", guidance_scale=1.0)
    return spec, await parts.embed(spec)


def _starts(side: int, tile: int, multiple: int) -> list[int]:
    """Where tiles begin so that they cover ``side`` and overlap by a quarter or more."""
    if side <= tile:
        return [0]
    stride = max(multiple, int(tile * (1 - _OVERLAP)) // multiple * multiple)
    return [*range(0, side - tile, stride), side - tile]


def _enlarged(pixels: Pixels, plan: Refinement) -> Pixels:
    picture = Image.fromarray(pixels).resize((plan.width, plan.height), Image.Resampling.LANCZOS)
    below, beside = plan.padded_height - plan.height, plan.padded_width - plan.width
    return np.pad(np.asarray(picture), ((0, below), (0, beside), (0, 0)), mode="edge")


def _assembled(large: Pixels, tiles: Sequence[Pixels], plan: Refinement) -> Pixels:
    """The tiles blended where they overlap, each in the colours of the picture it was made from."""
    total = np.zeros(large.shape, np.float32)
    weights = np.zeros((*large.shape[:2], 1), np.float32)
    weight = _weight(plan)
    for (left, top), tile in zip(plan.corners, tiles, strict=True):
        place = np.s_[top : top + plan.tile_height, left : left + plan.tile_width]
        total[place] += weight * _in_colors_of(large[place], tile)
        weights[place] += weight
    blended = np.clip(np.rint(total / weights), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(blended[: plan.height, : plan.width])


def _weight(plan: Refinement) -> Floats:
    """``[tile_height, tile_width, 1]``: rises from the edges of a tile to its inner part."""
    rise = [
        np.minimum(1, (np.minimum(np.arange(side), np.arange(side)[::-1]) + 1) / (side * _OVERLAP))
        for side in (plan.tile_height, plan.tile_width)
    ]
    return np.outer(*rise).astype(np.float32)[..., None]


def _in_colors_of(source: Pixels, drawn: Pixels) -> Floats:
    """``drawn`` with the low frequencies of ``source``: a tile's own drift of tone would show as a seam."""
    sigma = max(source.shape[:2]) / 16
    return drawn.astype(np.float32) + _blurred(source, sigma) - _blurred(drawn, sigma)


def _blurred(pixels: Pixels, sigma: float) -> Floats:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)), np.float32)
