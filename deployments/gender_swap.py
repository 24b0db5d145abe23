"""The GenderSwap replica class: composes Perception, Inpaint and ImageToImage. It needs no GPU and no torch.

The pipeline itself is ``deployments.pipeline.gender_swap``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from ray import serve
from ray.serve.handle import DeploymentHandle

from core.settings import AppSettings, TracingSettings
from core.specs import Face, FoundMask, GenderSwapSpec, GenerationSpec, MaskSpec
from core.telemetry import configure
from core.tracing import tracing_of
from core.types import PipelineEvent
from deployments.pipeline.gender_swap.pipeline import GenderSwapPipeline
from deployments.serving.handles import ask, pictures_through
from deployments.serving.scaling import replica_options
from deployments.serving.tracing import pictures_traced
from weights import registry

Spec = TypeVar("Spec", bound=GenerationSpec)

_ATTEMPTS = 3
# A request in progress may have to wait for another replica to start.
_SHUTDOWN_S = 120.0
_NO_TRACING = TracingSettings()


class _SeenPerception:
    """Perception's handle as the pipeline wants it."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def mask(self, spec: MaskSpec) -> FoundMask:
        found: FoundMask = await ask(self._handle, "mask", spec)
        return found

    async def describe(
        self, image: bytes, questions: Mapping[str, tuple[str, ...]]
    ) -> Mapping[str, Mapping[str, float]]:
        answers: Mapping[str, Mapping[str, float]] = await ask(self._handle, "describe", image, questions)
        return answers

    async def faces(self, image: bytes) -> tuple[Face, ...]:
        faces: tuple[Face, ...] = await ask(self._handle, "faces", image)
        return faces


class GenderSwap:
    """Turns a portrait into one of somebody of the other gender."""

    def __init__(
        self,
        perception: DeploymentHandle[Any],
        inpaint: DeploymentHandle[Any],
        image_to_image: DeploymentHandle[Any],
        model_id: str,
        tracing: TracingSettings = _NO_TRACING,
    ) -> None:
        configure()
        pipeline = GenderSwapPipeline(
            registry.info(model_id),
            _SeenPerception(perception),
            pictures_through(inpaint),
            pictures_through(image_to_image),
        )
        self._generate = pictures_traced(tracing_of(tracing), "GenderSwap", pipeline.generate)

    async def generate(self, spec: GenderSwapSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first and ``Completed`` last; raise a ``LimnerError``.

        Cancelling the stream cancels whatever the other replicas do for it.
        """
        async with aclosing(self._generate(spec)) as events:
            async for event in events:
                yield event

    async def check_health(self) -> None:
        """Answering is the check: the event loop is alive."""


def gender_swap_app(
    settings: AppSettings,
    perception: serve.Application,
    inpaint: serve.Application,
    image_to_image: serve.Application,
) -> serve.Application:
    """The GenderSwap deployment of ``settings``, bound to the replicas that it composes."""
    own = settings.gender_swap
    deployment = serve.deployment(
        name="GenderSwap",
        **replica_options(own.num_replicas, own.autoscaling),
        max_ongoing_requests=own.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.1},
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=_SHUTDOWN_S,
    )
    return deployment(GenderSwap).bind(perception, inpaint, image_to_image, settings.model, settings.tracing)
