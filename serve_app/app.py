"""The whole deployment graph, wired in one place: Router → pipelines and Trainer → Denoiser and Perception.

``build`` is what ``serve_config.yaml`` names. The router process imports no torch. Annotations are not
postponed here: Ray Serve reads that of ``build`` to validate its arguments.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, cast

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from core.figures import Figures
from core.settings import AppSettings, safety_enabled
from core.specs import (
    FoundMask,
    GenderSwapSpec,
    GenerationSpec,
    ImageToImageSpec,
    InpaintSpec,
    MaskSpec,
    TextToImageSpec,
    UpscaleSpec,
)
from core.telemetry import configure
from core.tracing import tracing_of
from core.training import Adapter, AdapterFormat, ImportSpec, Job, TrainingSpec
from core.types import ModelInfo, PipelineEvent
from deployments.denoiser import denoiser_app
from deployments.gender_swap import gender_swap_app
from deployments.image_to_image import image_to_image_app
from deployments.inpaint import inpaint_app
from deployments.perception import perception_app
from deployments.pipeline.networks import has_inpainting_unet
from deployments.serving.handles import ask, pictures_through
from deployments.serving.meters import keep_exporting
from deployments.serving.scaling import replica_options
from deployments.text_to_image import text_to_image_app
from deployments.trainer import trainer_app
from serve_app.api import build_api
from serve_app.records import Records, open_store
from weights import registry

S = TypeVar("S", bound=GenerationSpec)

_ATTEMPTS = 3
_READY_TIMEOUT_S = 2.0


class PipelineHandle(Generic[S]):
    """A pipeline's handle as the routes see it."""

    def __init__(self, handle: DeploymentHandle[Any], method: str = "generate") -> None:
        self._pictures = pictures_through(handle, method)

    def generate(self, spec: S) -> AsyncGenerator[PipelineEvent, None]:
        return self._pictures(spec)


class PerceptionHandle:
    """Perception's handle as the routes see it."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def mask(self, spec: MaskSpec) -> FoundMask:
        return cast(FoundMask, await ask(self._handle, "mask", spec))


class TrainerHandle:
    """The Trainer's handle as the routes see it."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def submit(self, spec: TrainingSpec) -> Job:
        return cast(Job, await ask(self._handle, "submit", spec))

    async def import_adapter(self, spec: ImportSpec) -> Adapter:
        return cast(Adapter, await ask(self._handle, "import_adapter", spec))

    async def export(self, adapter: Adapter, format: AdapterFormat) -> bytes:
        return cast(bytes, await ask(self._handle, "export", adapter, format))

    async def cancel(self, job_id: str, user_id: str) -> Job:
        return cast(Job, await ask(self._handle, "cancel", job_id, user_id))

    async def delete_adapter(self, adapter_id: str, user_id: str) -> None:
        await ask(self._handle, "delete_adapter", adapter_id, user_id)


@dataclass(frozen=True)
class Handles:
    """The handles of every deployment but the router's."""

    denoiser: DeploymentHandle[Any]
    perception: DeploymentHandle[Any]
    text_to_image: DeploymentHandle[Any]
    image_to_image: DeploymentHandle[Any]
    inpaint: DeploymentHandle[Any]
    gender_swap: DeploymentHandle[Any]
    trainer: DeploymentHandle[Any]


class ServedPipelines:
    """The pipelines behind their handles; one model is deployed at a time."""

    def __init__(self, handles: Handles, settings: AppSettings) -> None:
        # A deployment that may have no replicas is started by its first request, not by a probe.
        self._probed = [
            getattr(handles, member.name)
            for member in fields(handles)
            if _has_replicas(settings, member.name)
        ]
        self._text_to_image = PipelineHandle[TextToImageSpec](handles.text_to_image)
        self._image_to_image = PipelineHandle[ImageToImageSpec](handles.image_to_image)
        self._upscale = PipelineHandle[UpscaleSpec](handles.image_to_image, "upscale")
        self._inpaint = PipelineHandle[InpaintSpec](handles.inpaint)
        self._gender_swap = PipelineHandle[GenderSwapSpec](handles.gender_swap)
        self._perception = PerceptionHandle(handles.perception)

    def text_to_image(self, model_id: str) -> PipelineHandle[TextToImageSpec]:
        return self._text_to_image

    def image_to_image(self, model_id: str) -> PipelineHandle[ImageToImageSpec]:
        return self._image_to_image

    def upscale(self, model_id: str) -> PipelineHandle[UpscaleSpec]:
        return self._upscale

    def inpaint(self, model_id: str) -> PipelineHandle[InpaintSpec]:
        return self._inpaint

    def gender_swap(self, model_id: str) -> PipelineHandle[GenderSwapSpec]:
        return self._gender_swap

    def perception(self, model_id: str) -> PerceptionHandle:
        return self._perception

    async def ready(self) -> bool:
        """Whether every deployment that is never without replicas answers its health check now."""
        checks = [handle.check_health.remote() for handle in self._probed]
        try:
            await asyncio.wait_for(asyncio.gather(*checks), _READY_TIMEOUT_S)
        except (TimeoutError, RayError, RuntimeError):
            return False
        return True


def _has_replicas(settings: AppSettings, name: str) -> bool:
    """Whether the deployment of this name has a replica at any time."""
    own = getattr(settings, name, None)
    scaling = getattr(own, "autoscaling", None)
    return scaling is None or scaling.min_replicas > 0


@serve.deployment(name="Router")
@serve.ingress()
class Router:
    """The ingress: HTTP on one side, handles on the other."""

    def __init__(
        self,
        handles: dict[str, DeploymentHandle[Any]],
        models: tuple[ModelInfo, ...],
        settings: AppSettings,
    ) -> None:
        configure()
        found = Handles(**handles)
        self._pipelines = ServedPipelines(found, settings)
        self._trainer = TrainerHandle(found.trainer)
        self._records = Records(lambda: open_store(settings.store))
        self._models = models
        self._settings = settings
        self._figures = Figures()
        self._exporting = asyncio.get_running_loop().create_task(keep_exporting(self._figures))

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Ray Serve's own middleware echoes X-Request-ID already.
        return build_api(
            self._pipelines,
            self._trainer,
            self._records,
            self._models,
            self._settings.router,
            prompt_rules=safety_enabled(self._settings.safety, self._models[0].family),
            echo_request_id=False,
            figures=self._figures,
            tracing=tracing_of(self._settings.tracing),
        )


def build(args: AppSettings) -> serve.Application:
    """The application of ``args``; Ray Serve validates ``serve_config.yaml`` against their type."""
    denoiser = denoiser_app(args)
    perception = perception_app(args)
    text_to_image = text_to_image_app(args, denoiser, perception)
    image_to_image = image_to_image_app(args, denoiser, perception)
    inpaint_denoiser = denoiser_app(args, inpainting=True) if has_inpainting_unet(args.model) else None
    inpaint = inpaint_app(args, denoiser, perception, inpaint_denoiser)
    # Whoever holds adapters in memory has to forget those that are deleted.
    adapter_users = [denoiser, text_to_image, image_to_image, inpaint]
    if inpaint_denoiser is not None:
        adapter_users.append(inpaint_denoiser)
    handles = {
        "denoiser": denoiser,
        "perception": perception,
        "text_to_image": text_to_image,
        "image_to_image": image_to_image,
        "inpaint": inpaint,
        "gender_swap": gender_swap_app(args, perception, inpaint, image_to_image),
        "trainer": trainer_app(args, perception, text_to_image, adapter_users),
    }
    router = cast(serve.Deployment, Router).options(
        **replica_options(args.router.num_replicas, args.router.autoscaling),
        max_ongoing_requests=args.router.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.1},
    )
    return router.bind(handles, (registry.info(args.model),), args)
