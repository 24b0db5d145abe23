"""The Perception replica: one CLIPSeg network, a face detector and a safety check for every pipeline.

Knows Ray Serve; what is answered and how is ``deployments.pipeline.perception``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray import serve
from ray.util.metrics import Counter

from core.settings import AppSettings
from core.telemetry import configure, log, logger
from deployments.pipeline.threads import actor_options, num_cores
from deployments.serving.scaling import replica_options

if TYPE_CHECKING:
    from core.specs import Face, FoundMask, MaskSpec, Verdict

_LOG = logger(__name__)


class Perception:
    """Finds what words name, tells attributes, counts faces and checks pictures.

    Each method raises a ``LimnerError``: ``InvalidRequest`` for a file or words that cannot be used,
    ``MissingPart`` for what the model has no network for. Nothing of a picture is logged or stored.
    """

    def __init__(self, settings: AppSettings) -> None:
        # torch and transformers take ten seconds to import: only the replica pays for them.
        import torch

        from deployments.pipeline.perception.loading import load_parts
        from deployments.pipeline.perception.perceiver import Perceiver

        configure()
        began = time.monotonic()
        own = settings.perception
        torch.set_num_threads(own.num_threads or num_cores())
        parts = load_parts(settings.model, own, settings.safety, "cuda" if settings.use_gpu else "cpu")
        limits = settings.router.limits
        self._perceiver = Perceiver(parts, max_pixels=max(limits.max_upload_pixels, limits.max_output_pixels))
        self._verdicts = Counter(
            "limner_moderation_verdicts", "Pictures and previews that were checked.", ("verdict",)
        )
        took_s = round(time.monotonic() - began, 2)
        log(_LOG, logging.INFO, "perception ready", model=settings.model, took_s=took_s)

    async def mask(self, spec: MaskSpec) -> FoundMask:
        """Where in the picture the words are; coverage 0 if they are nowhere in it."""
        return await self._perceiver.mask(spec)

    async def describe(
        self, image: bytes, questions: Mapping[str, tuple[str, ...]]
    ) -> dict[str, dict[str, float]]:
        """For each question the probabilities of its phrases, which add up to 1."""
        return await self._perceiver.describe(image, questions)

    async def faces(self, image: bytes) -> tuple[Face, ...]:
        """The faces of people in the picture, the surest first."""
        return await self._perceiver.faces(image)

    async def moderate(self, pictures: tuple[bytes, ...]) -> tuple[Verdict, ...]:
        """One verdict per picture file, in order. Without pictures it tells whether any could be checked."""
        verdicts = await self._perceiver.moderate(pictures)
        for verdict in verdicts:
            self._verdicts.inc(tags={"verdict": "blocked" if verdict.blocked else "allowed"})
        return verdicts

    async def check_health(self) -> None:
        """Answering is the check: the event loop is alive."""

    def __del__(self) -> None:
        """Serve calls this once no request is left."""
        if hasattr(self, "_perceiver"):
            self._perceiver.close()


def perception_app(settings: AppSettings) -> serve.Application:
    """The Perception deployment of ``settings``."""
    own = settings.perception
    deployment = serve.deployment(
        name="Perception",
        **replica_options(own.num_replicas, own.autoscaling),
        max_ongoing_requests=own.max_ongoing_requests,
        ray_actor_options=actor_options(own.gpu_share if settings.use_gpu else 0),
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=30,
    )
    return deployment(Perception).bind(settings)
