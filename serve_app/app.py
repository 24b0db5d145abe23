"""The whole deployment graph, wired in one place: Router → TextToImage → Denoiser.

``build`` is what ``serve_config.yaml`` names. The router process imports no torch. Annotations are not
postponed here: Ray Serve reads that of ``build`` to validate its arguments.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from core.errors import GenerationFailed, NotReady, QueueFull
from core.settings import AppSettings, RouterSettings
from core.telemetry import configure
from core.types import Accepted, Completed, ModelInfo, PipelineEvent, TextToImageSpec
from deployments.denoiser import denoiser_app
from deployments.text_to_image import text_to_image_app
from serve_app.api import build_api
from serve_app.pipelines import TextToImagePipeline
from weights import registry

_ATTEMPTS = 3
_READY_TIMEOUT_S = 2.0


class TextToImageHandle:
    """A ``TextToImage`` handle as the routes see it.

    When its replica dies, the request starts over on another one: the seed makes the same pictures, so
    the client notices a pause and nothing else.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(stream=True)

    async def generate(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        accepted = False
        for _ in range(_ATTEMPTS):
            try:
                async with aclosing(self._attempt(spec)) as events:
                    async for event in events:
                        if isinstance(event, Accepted) and accepted:
                            continue
                        accepted = True
                        yield event
                        if isinstance(event, Completed):
                            return
            except RayActorError:
                continue
            except BackPressureError as error:
                raise QueueFull("Every text-to-image replica is at its limit", retry_after_s=1.0) from error
            except DeploymentUnavailableError as error:
                raise NotReady("No text-to-image replica is running", retry_after_s=5.0) from error
        raise GenerationFailed(f"The replica was lost {_ATTEMPTS} times", retry_after_s=5.0)

    async def _attempt(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        events = cast(DeploymentResponseGenerator[PipelineEvent], self._handle.generate.remote(spec))
        try:
            async for event in events:
                yield event
        finally:
            # Without effect on a stream that has ended; otherwise the replica stops within one step.
            events.cancel()


class ServedPipelines:
    """The pipelines behind their handles."""

    def __init__(self, text_to_image: DeploymentHandle[Any], denoiser: DeploymentHandle[Any]) -> None:
        self._text_to_image = TextToImageHandle(text_to_image)
        self._probed = (text_to_image, denoiser)

    def text_to_image(self, model_id: str) -> TextToImagePipeline:
        """The pipeline of ``model_id``; one model is deployed at a time."""
        return self._text_to_image

    async def ready(self) -> bool:
        """Whether a replica of every deployment answers its health check now."""
        checks = [handle.check_health.remote() for handle in self._probed]
        try:
            await asyncio.wait_for(asyncio.gather(*checks), _READY_TIMEOUT_S)
        except (TimeoutError, RayError, RuntimeError):
            return False
        return True


@serve.deployment(name="Router")
@serve.ingress()
class Router:
    """The ingress: HTTP on one side, handles on the other."""

    def __init__(
        self,
        text_to_image: DeploymentHandle[Any],
        denoiser: DeploymentHandle[Any],
        models: tuple[ModelInfo, ...],
        settings: RouterSettings,
    ) -> None:
        configure()
        self._pipelines = ServedPipelines(text_to_image, denoiser)
        self._models = models
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Ray Serve's own middleware echoes X-Request-ID already.
        return build_api(self._pipelines, self._models, self._settings, echo_request_id=False)


def build(args: AppSettings) -> serve.Application:
    """The application of ``args``; Ray Serve validates ``serve_config.yaml`` against their type."""
    denoiser = denoiser_app(args)
    text_to_image = text_to_image_app(args, denoiser)
    router = cast(serve.Deployment, Router).options(
        num_replicas=args.router.num_replicas,
        max_ongoing_requests=args.router.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.1},
    )
    models = (registry.info(args.model),)
    return router.bind(text_to_image, denoiser, models, args.router)
