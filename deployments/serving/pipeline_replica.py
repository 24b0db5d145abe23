"""What every pipeline's replica class has in common. Knows Ray Serve; the pipelines themselves are given."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ray import serve
from ray.serve.handle import DeploymentHandle

from core.settings import AppSettings, PipelineSettings, safety_enabled
from core.specs import GenerationSpec
from core.telemetry import configure, log, logger
from core.tracing import tracing_of
from core.types import PipelineEvent
from deployments.pipeline.threads import actor_options, num_cores
from deployments.serving.handles import ask, denoise_through
from deployments.serving.scaling import replica_options
from deployments.serving.tracing import pictures_traced

if TYPE_CHECKING:
    from deployments.pipeline.denoising import Denoise
    from deployments.pipeline.painting import Painter
    from deployments.pipeline.parts import PipelineParts

_LOG = logger(__name__)
_DENOISER_START_S = 60.0
# The text encoder's part of an adapter for Stable Diffusion 1.5, attention at rank 16, has 5 MB in float32.
_ADAPTER_CACHE_BYTES = 250_000_000

Spec = TypeVar("Spec", bound=GenerationSpec, contravariant=True)


class Pipeline(Protocol[Spec]):
    """One request's way from its spec to its pictures."""

    def generate(self, spec: Spec) -> AsyncGenerator[PipelineEvent, None]: ...


class PipelineReplica(ABC, Generic[Spec]):
    """Text encoder, VAE and one pipeline around the shared Denoiser."""

    def __init__(
        self,
        denoiser: DeploymentHandle[Any],
        perception: DeploymentHandle[Any],
        settings: AppSettings,
        own: PipelineSettings,
    ) -> None:
        # torch and diffusers take ten seconds to import: only the replica pays for them.
        import torch

        from deployments.pipeline.adapter_cache import AdapterCache, BlobsAtNeed
        from deployments.pipeline.painting import Painter
        from deployments.pipeline.parts import load_parts
        from deployments.pipeline.safety import Moderation
        from weights.adapters import text_encoder_factors

        configure()
        self.settings, self.own = settings, own
        self.tracing = tracing_of(settings.tracing)
        began = time.monotonic()
        torch.set_num_threads(own.num_threads or num_cores())
        blobs = BlobsAtNeed(settings.store.blobs_url)
        adapters = AdapterCache(blobs, _ADAPTER_CACHE_BYTES, text_encoder_factors)
        self._parts = load_parts(settings.model, own, "cuda" if settings.use_gpu else "cpu", adapters)
        self._denoiser, self._perception = denoiser, perception
        moderation = None
        if safety_enabled(settings.safety, self._parts.info.family):
            moderation = Moderation(lambda pictures: self.perceive("moderate", pictures)).check
        painter = Painter(self.denoising(), preview_size=own.preview_size, moderate=moderation)
        pipeline = self.build(self._parts, painter)
        self._generate = pictures_traced(self.tracing, type(self).__name__, pipeline.generate)
        took_s = round(time.monotonic() - began, 2)
        log(_LOG, logging.INFO, "pipeline ready", pipeline=type(self).__name__, took_s=took_s)

    @abstractmethod
    def build(self, parts: PipelineParts, painter: Painter) -> Pipeline[Spec]:
        """The pipeline that this replica serves."""

    def denoising(self) -> Denoise:
        """How requests reach a Denoiser."""
        return denoise_through(self._denoiser)

    async def perceive(self, method: str, *arguments: Any) -> Any:
        """What Perception answers. Raises its ``LimnerError``."""
        return await ask(self._perception, method, *arguments)

    async def generate(self, spec: Spec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first and ``Completed`` last; raise a ``LimnerError``.

        Cancelling the stream cancels every picture of the request.
        """
        async with aclosing(self._generate(spec)) as events:
            async for event in events:
                yield event

    async def forget_adapter(self, adapter_id: str) -> None:
        """Drop the adapter and every embedding that it acted on; requests that use it already finish."""
        self._parts.forget(adapter_id)

    async def check_health(self) -> None:
        """Answering is the check: the event loop is alive."""

    def __del__(self) -> None:
        """Serve calls this once no request is left."""
        if hasattr(self, "_parts"):
            self._parts.close()


def pipeline_app(
    replica: type[PipelineReplica[Any]],
    settings: AppSettings,
    own: PipelineSettings,
    denoiser: serve.Application,
    perception: serve.Application,
    **others: serve.Application | None,
) -> serve.Application:
    """The deployment of ``replica``, named like its class, bound to its Denoiser and to Perception.

    ``others`` are what its constructor takes besides.
    """
    deployment = serve.deployment(
        name=replica.__name__,
        **replica_options(own.num_replicas, own.autoscaling),
        max_ongoing_requests=own.max_ongoing_requests,
        ray_actor_options=actor_options(own.gpu_share if settings.use_gpu else 0),
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        # A request may live through the drain of its Denoiser, and wait for another one to start.
        graceful_shutdown_timeout_s=settings.denoiser.drain_timeout_s + _DENOISER_START_S,
    )
    return deployment(replica).bind(
        denoiser=denoiser, perception=perception, settings=settings, own=own, **others
    )
