"""Denoiser replicas in one process: real engines, each with its thread, of which one may drain."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import torch

from deployments.engine import request as engine_request
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.lora import LoraFactors
from deployments.engine.preview import PreviewMap
from deployments.engine.request import DenoiseEvent, DenoiseRequest
from deployments.engine.samplers import NoiseSchedule
from deployments.engine.thread import EngineThread
from deployments.pipeline.adapter_cache import AdapterCache, Reads
from deployments.pipeline.adapter_streaming import stream_with_adapters
from store.blobs import Blobs
from weights import registry
from weights.adapters import unet_factors


class Replicas:
    """In-process Denoiser replicas on one UNet; requests go to the first that is not leaving.

    Adapters come from ``blobs``, by default from a store without any.
    """

    def __init__(self, model_id: str, num_replicas: int, blobs: Reads | None = None) -> None:
        unet = registry.load_unet(model_id)
        schedule = NoiseSchedule.from_config(registry.scheduler_config(model_id))
        self.engines = [
            Engine(
                unet,
                schedule,
                dtype=torch.float32,
                device="cpu",
                max_rows=8,
                max_queued_requests=16,
                cost=CostModel(),
                preview=PreviewMap(torch.eye(4)[:, :3] * 0.1, torch.full((3,), 0.5)),
                adapter_slots=4,
            )
            for _ in range(num_replicas)
        ]
        self.caches = [
            AdapterCache(blobs or Blobs("memory://none"), 100_000_000, unet_factors) for _ in self.engines
        ]
        self.threads = [EngineThread(engine) for engine in self.engines]
        for thread in self.threads:
            thread.start()
        self.current = 0
        self.hand_back_after: int | None = None

    def stop(self) -> None:
        for thread in self.threads:
            assert thread.stop(10)
        for cache in self.caches:
            cache.close()

    async def denoise(self, request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        replica, cache = self.engines[self.current], self.caches[self.current]
        streaming = stream_with_adapters(_Interrupted(self, replica), cache, request, progress_interval_s=0)
        async with aclosing(streaming) as events:
            async for event in events:
                yield event


class _Interrupted:
    """An engine that starts to drain once a request has taken ``hand_back_after`` steps in it."""

    def __init__(self, replicas: Replicas, engine: Engine) -> None:
        self._replicas = replicas
        self._engine = engine
        self.cancel = engine.cancel

    def submit(
        self,
        request: DenoiseRequest,
        on_event: Callable[[DenoiseEvent], None],
        adapters: Mapping[str, LoraFactors] = {},
    ) -> engine_request.Accepted:
        def interrupting(event: DenoiseEvent) -> None:
            if isinstance(event, engine_request.Progressed) and event.step == self._replicas.hand_back_after:
                self._replicas.hand_back_after = None
                self._replicas.current += 1
                self._engine.hand_back()
            on_event(event)

        return self._engine.submit(request, interrupting, adapters)
