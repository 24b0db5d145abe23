"""The TextToImage replica class. The pipeline itself is ``deployments.pipeline.text_to_image``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray import serve

from core.settings import AppSettings
from core.specs import TextToImageSpec
from deployments.serving.pipeline_replica import Pipeline, PipelineReplica, pipeline_app

if TYPE_CHECKING:
    from deployments.pipeline.painting import Painter
    from deployments.pipeline.parts import PipelineParts


class TextToImage(PipelineReplica[TextToImageSpec]):
    """Turns prompts into picture files."""

    def build(self, parts: PipelineParts, painter: Painter) -> Pipeline[TextToImageSpec]:
        from deployments.pipeline.text_to_image import TextToImagePipeline

        return TextToImagePipeline(parts, painter)


def text_to_image_app(
    settings: AppSettings, denoiser: serve.Application, perception: serve.Application
) -> serve.Application:
    """The TextToImage deployment of ``settings``."""
    return pipeline_app(TextToImage, settings, settings.text_to_image, denoiser, perception)
