"""The Inpaint replica class. The pipeline itself is ``deployments.pipeline.inpainting``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from core.settings import AppSettings, PipelineSettings
from core.specs import InpaintSpec
from deployments.serving.handles import denoise_through
from deployments.serving.pipeline_replica import Pipeline, PipelineReplica, pipeline_app

if TYPE_CHECKING:
    from deployments.engine.request import DenoiseEvent, DenoiseRequest
    from deployments.pipeline.denoising import Denoise
    from deployments.pipeline.painting import Painter
    from deployments.pipeline.parts import PipelineParts


class Inpaint(PipelineReplica[InpaintSpec]):
    """Paints inside masks and beyond edges; masks from words come from Perception."""

    def __init__(
        self,
        denoiser: DeploymentHandle[Any],
        perception: DeploymentHandle[Any],
        settings: AppSettings,
        own: PipelineSettings,
        inpaint_denoiser: DeploymentHandle[Any] | None = None,
    ) -> None:
        self._inpaint_denoiser = inpaint_denoiser
        super().__init__(denoiser, perception, settings, own)

    def build(self, parts: PipelineParts, painter: Painter) -> Pipeline[InpaintSpec]:
        from deployments.pipeline.inpainting.conditioning import conditioning_for
        from deployments.pipeline.inpainting.pipeline import InpaintPipeline
        from deployments.pipeline.networks import inpainting_channels
        from deployments.pipeline.powerpaint.loading import load_task_prompts
        from deployments.pipeline.powerpaint.plan import Planner

        self._tasks = load_task_prompts(
            parts.info.model_id,
            parts.prompts,
            device="cuda" if self.settings.use_gpu else "cpu",
            cache_entries=self.own.embedding_cache_entries,
        )
        conditioning = conditioning_for(parts, inpainting_channels(parts.info.model_id))
        return InpaintPipeline(
            parts,
            painter,
            Planner(parts, conditioning, self._tasks),
            find_mask=partial(self.perceive, "mask"),
            describe=partial(self.perceive, "describe"),
        )

    async def forget_adapter(self, adapter_id: str) -> None:
        await super().forget_adapter(adapter_id)
        if self._tasks is not None:
            self._tasks.forget(adapter_id)

    def denoising(self) -> Denoise:
        """Requests that show the mask to the UNet go to the one that was made for it."""
        ordinary = denoise_through(self._denoiser)
        if self._inpaint_denoiser is None:
            return ordinary
        inpainting = denoise_through(self._inpaint_denoiser)

        def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
            return (ordinary if request.extra_channels is None else inpainting)(request)

        return denoise


def inpaint_app(
    settings: AppSettings,
    denoiser: serve.Application,
    perception: serve.Application,
    inpaint_denoiser: serve.Application | None,
) -> serve.Application:
    """The Inpaint deployment of ``settings``; ``inpaint_denoiser`` runs a UNet of nine channels."""
    return pipeline_app(
        Inpaint, settings, settings.inpaint, denoiser, perception, inpaint_denoiser=inpaint_denoiser
    )
