"""The ImageToImage replica class: image-to-image and upscaling, which is image-to-image over tiles.

The pipelines themselves are ``deployments.pipeline.image_to_image`` and ``deployments.pipeline.upscale``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from ray import serve

from core.settings import AppSettings
from core.specs import ImageToImageSpec, UpscaleSpec
from core.types import PipelineEvent
from deployments.serving.pipeline_replica import Pipeline, PipelineReplica, pipeline_app
from deployments.serving.tracing import pictures_traced

if TYPE_CHECKING:
    from deployments.pipeline.painting import Painter
    from deployments.pipeline.parts import PipelineParts


class ImageToImage(PipelineReplica[ImageToImageSpec]):
    """Turns pictures into other pictures."""

    def build(self, parts: PipelineParts, painter: Painter) -> Pipeline[ImageToImageSpec]:
        from deployments.pipeline.image_to_image import ImageToImagePipeline
        from deployments.pipeline.networks import has_controlnet
        from deployments.pipeline.upscale import UpscalePipeline

        self._upscale = pictures_traced(self.tracing, "Upscale", UpscalePipeline(parts, painter).generate)
        return ImageToImagePipeline(
            parts,
            painter,
            describe=partial(self.perceive, "describe"),
            structure=has_controlnet(parts.info.model_id),
        )

    async def upscale(self, spec: UpscaleSpec) -> AsyncGenerator[PipelineEvent, None]:
        """As ``generate``, for upscaling."""
        async with aclosing(self._upscale(spec)) as events:
            async for event in events:
                yield event


def image_to_image_app(
    settings: AppSettings, denoiser: serve.Application, perception: serve.Application
) -> serve.Application:
    """The ImageToImage deployment of ``settings``."""
    return pipeline_app(ImageToImage, settings, settings.image_to_image, denoiser, perception)
