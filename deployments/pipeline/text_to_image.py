"""Text to image: from a prompt to picture files. Knows the order of things; no ray, no HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from core.specs import TextToImageSpec
from core.types import Picture, PipelineEvent
from deployments.engine.request import noise_for
from deployments.pipeline.painting import Painter, Stroke, request_of
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.picture_files import picture_of
from deployments.pipeline.refining import hires_of, refine


class TextToImagePipeline:
    """Draws pictures from words alone."""

    def __init__(self, parts: PipelineParts, painter: Painter) -> None:
        self._parts = parts
        self._painter = painter

    async def generate(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first, ``Completed`` last; raise a ``LimnerError``. Closing cancels."""
        began = time.monotonic()
        parts = self._parts
        embeds = await parts.embed(spec)
        hires = hires_of(spec, parts.info, spec.width, spec.height)

        async def paint_one(stroke: Stroke) -> Picture:
            noise = noise_for(stroke.seed, parts.latent_shape(spec.width, spec.height))
            request = request_of(spec, stroke, embeds, noise, parts.decoder.factor)
            pixels = await parts.decoder.decode(await stroke.denoise(request))
            if hires is not None:
                pixels = await refine(pixels, hires, spec, stroke, embeds, parts)
            return await picture_of(pixels, spec, stroke, parts.info.model_id)

        num_steps = spec.num_inference_steps + (hires.num_steps if hires else 0)
        decode_s = parts.decoder.estimate_s(spec.width, spec.height)
        painting = self._painter.paint(spec, paint_one, num_steps=num_steps, decode_s=decode_s, began=began)
        async with aclosing(painting) as events:
            async for event in events:
                yield event
