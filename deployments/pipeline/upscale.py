"""Upscaling: a picture at twice or four times its size, its details drawn anew. No ray, no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np

from core.specs import UpscaleSpec
from core.types import Picture, PipelineEvent
from core.uploads import open_picture
from deployments.pipeline.painting import Painter, Stroke
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.picture_files import picture_of
from deployments.pipeline.refining import plan_refinement, refine


class UpscalePipeline:
    """Enlarges pictures; every tile is a row of the running batch."""

    def __init__(self, parts: PipelineParts, painter: Painter) -> None:
        self._parts = parts
        self._painter = painter

    async def generate(self, spec: UpscaleSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first, ``Completed`` last; raise a ``LimnerError``. Closing cancels."""
        began = time.monotonic()
        parts = self._parts
        picture = await asyncio.to_thread(open_picture, spec.image, field="image")
        pixels = np.asarray(picture)
        embeds = await parts.embed(spec)
        width, height = (side * spec.scale for side in picture.size)
        plan = plan_refinement(parts.info, width, height, spec.strength, spec.num_inference_steps)

        async def paint_one(stroke: Stroke) -> Picture:
            refined = await refine(pixels, plan, spec, stroke, embeds, parts)
            extra = {"Denoising strength": spec.strength, "Upscale": spec.scale}
            return await picture_of(refined, spec, stroke, parts.info.model_id, extra)

        painting = self._painter.paint(
            spec,
            paint_one,
            num_steps=plan.num_steps,
            decode_s=parts.decoder.estimate_s(plan.tile_width, plan.tile_height),
            began=began,
        )
        async with aclosing(painting) as events:
            async for event in events:
                yield event
