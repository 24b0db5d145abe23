"""The TextToImage replica: text encoder, VAE and picture files around the shared Denoiser.

Knows Ray Serve; the pipeline itself is ``deployments.pipeline.text_to_image``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from core.errors import LimnerError, QueueFull
from core.settings import AppSettings, TextToImageSettings
from core.telemetry import configure, log, logger
from core.types import PipelineEvent, TextToImageSpec
from deployments.pipeline.threads import actor_options, num_cores

if TYPE_CHECKING:
    from deployments.engine.request import DenoiseEvent, DenoiseRequest

_LOG = logger(__name__)
_DENOISER_START_S = 60.0


class TextToImage:
    """Turns prompts into picture files."""

    def __init__(
        self, denoiser: DeploymentHandle[Any], model_id: str, settings: TextToImageSettings, use_gpu: bool
    ) -> None:
        # torch and diffusers take ten seconds to import: only the replica pays for them.
        import torch

        from deployments.pipeline.decoder import PictureDecoder
        from deployments.pipeline.prompts import PromptEncoder
        from deployments.pipeline.text_to_image import TextToImagePipeline
        from weights import registry

        configure()
        began = time.monotonic()
        torch.set_num_threads(settings.num_threads or num_cores())
        device = "cuda" if use_gpu else "cpu"
        tokenizer, text_encoder = registry.load_text(model_id)
        self._prompts = PromptEncoder(
            tokenizer, text_encoder.to(device), cache_entries=settings.embedding_cache_entries
        )
        self._decoder = PictureDecoder(
            registry.load_vae(model_id),
            precision=settings.precision,
            device=device,
            max_batch=settings.max_decode_batch,
        )
        self._denoiser: Any = denoiser.options(stream=True)
        self._pipeline = TextToImagePipeline(
            model_id, self._prompts, self._decoder, self._denoise, preview_size=settings.preview_size
        )
        took_s = round(time.monotonic() - began, 2)
        log(_LOG, logging.INFO, "text-to-image ready", model=model_id, took_s=took_s)

    async def generate(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first and ``Completed`` last; raise a ``LimnerError``.

        Cancelling the stream cancels every picture of the request.
        """
        async with aclosing(self._pipeline.generate(spec)) as events:
            async for event in events:
                yield event

    async def check_health(self) -> None:
        """Answering is the check: the event loop is alive."""

    def __del__(self) -> None:
        """Serve calls this once no request is left."""
        if hasattr(self, "_pipeline"):
            self._prompts.close()
            self._decoder.close()

    async def _denoise(self, request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        """The Denoiser's stream for ``request``, with Ray's errors turned into ours."""
        from deployments.pipeline.denoising import ReplicaLost

        events = self._denoiser.denoise.remote(request)
        try:
            async for event in events:
                yield event
        except RayTaskError as error:
            if isinstance(error.cause, LimnerError):
                raise error.cause from None
            raise
        except RayActorError as error:
            raise ReplicaLost from error
        except BackPressureError as error:
            raise QueueFull("The denoisers' queues are full.", retry_after_s=1) from error
        finally:
            # Without effect on a stream that has ended; otherwise the engine drops the request.
            events.cancel()


def text_to_image_app(settings: AppSettings, denoiser: serve.Application) -> serve.Application:
    """The TextToImage deployment of ``settings``, bound to its Denoiser."""
    own = settings.text_to_image
    deployment = serve.deployment(
        name="TextToImage",
        num_replicas=own.num_replicas,
        max_ongoing_requests=own.max_ongoing_requests,
        ray_actor_options=actor_options(own.gpu_share if settings.use_gpu else 0),
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        # A request may live through the drain of its Denoiser, and wait for another one to start.
        graceful_shutdown_timeout_s=settings.denoiser.drain_timeout_s + _DENOISER_START_S,
    )
    return deployment(TextToImage).bind(denoiser, settings.model, own, settings.use_gpu)
