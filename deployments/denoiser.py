"""The Denoiser replica: one UNet and its running batch, shared by every pipeline of the model.

Knows Ray Serve and what surrounds the engine: its thread, its health, its metrics, its drain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ray import serve
from ray._private.worker import global_worker

from core.errors import LimnerError
from core.settings import AppSettings, DenoiserSettings, StoreSettings, TracingSettings
from core.telemetry import configure, log, logger
from core.tracing import tracing_of
from deployments.pipeline.threads import actor_options
from deployments.serving.affinity import router_config, routing_stats
from deployments.serving.engine_meters import EngineMeters
from deployments.serving.scaling import LOAD, WORK_S, replica_options
from deployments.serving.tracing import steps_traced

if TYPE_CHECKING:
    import torch

    from deployments.engine.branch import Branch
    from deployments.engine.engine import Engine
    from deployments.engine.request import DenoiseEvent, DenoiseRequest
    from deployments.pipeline.adapter_cache import BlobsAtNeed

_LOG = logger(__name__)

# A step takes milliseconds to seconds; one that takes this long will not end.
STUCK_AFTER_S = 60.0
_WATCH_PERIOD_S = 0.5
# Requests beyond the engine's own bound reach it, so that it can refuse them at once.
_ONGOING_MARGIN = 64
_KILL_MARGIN_S = 10.0
_LOCAL_STORE = StoreSettings()
_NO_TRACING = TracingSettings()


class Unhealthy(LimnerError):
    """The replica cannot go on and has to be replaced."""

    code, title = "unhealthy", "Replica unhealthy"


class Denoiser:
    """Denoises latents for the pipelines. One request is one picture."""

    def __init__(
        self,
        model_id: str,
        settings: DenoiserSettings,
        use_gpu: bool,
        inpainting: bool = False,
        store: StoreSettings = _LOCAL_STORE,
        tracing: TracingSettings = _NO_TRACING,
    ) -> None:
        # torch and diffusers take ten seconds to import: only the replica pays for them.
        from deployments.engine.thread import EngineThread
        from deployments.pipeline.adapter_cache import AdapterCache, BlobsAtNeed
        from deployments.pipeline.adapter_streaming import stream_with_adapters
        from weights.adapters import unet_factors

        configure()
        began = time.monotonic()
        blobs = BlobsAtNeed(store.blobs_url)
        self._engine, dtype = _load_engine(
            model_id, settings, "cuda" if use_gpu else "cpu", inpainting, blobs
        )
        self._adapters = AdapterCache(blobs, settings.adapter_cache_bytes, unet_factors)
        streaming = partial(stream_with_adapters, self._engine, self._adapters)
        self._denoise = steps_traced(tracing_of(tracing), streaming)
        self._thread = EngineThread(self._engine)
        self._thread.start()
        self._drain_timeout_s = settings.drain_timeout_s
        self._metrics = EngineMeters(_name(inpainting))
        self._num_steps_seen = 0
        self._stepped_at = time.monotonic()
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        took_s = time.monotonic() - began
        log(_LOG, logging.INFO, "denoiser ready", model=model_id, dtype=str(dtype), took_s=took_s)

    async def denoise(self, request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        """Yield ``Accepted``, then the request's events, its terminal one last.

        A request that the engine refuses gets ``Failed`` alone: raised, Serve would log each refusal
        with its traceback. Cancelling the stream cancels the request.
        """
        from deployments.engine.request import Failed

        try:
            async with aclosing(self._denoise(request)) as events:
                async for event in events:
                    yield event
        except LimnerError as error:
            yield Failed(request.request_id, error)

    async def forget_adapter(self, adapter_id: str) -> None:
        """Drop the adapter from memory and its slot; requests that use it already finish with it."""
        self._adapters.forget(adapter_id)
        await asyncio.to_thread(self._engine.forget_adapter, adapter_id)

    async def check_health(self) -> None:
        """Raise :class:`Unhealthy` when the engine's thread has ended or hangs in a step."""
        if not self._thread.is_alive:
            raise Unhealthy("The engine's thread has ended.")
        stats = self._engine.stats()
        now = time.monotonic()
        if stats.num_steps != self._num_steps_seen or not (stats.num_running or stats.num_queued):
            self._num_steps_seen, self._stepped_at = stats.num_steps, now
        if now - self._stepped_at > STUCK_AFTER_S:
            raise Unhealthy(f"No step has ended for {now - self._stepped_at:.0f} s.")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Seconds of work that wait or run here, and that arrive per second, for the autoscaling policy."""
        stats = self._engine.stats()
        return {WORK_S: stats.work_s, LOAD: stats.expected_load}

    async def record_routing_stats(self) -> dict[str, list[str]]:
        """The adapters in memory here, which requests for them are routed by."""
        return routing_stats(self._adapters.resident)

    def close(self) -> None:
        """Hand back what is left and end the engine's thread."""
        self._watching.cancel()
        self._adapters.close()
        if not self._thread.stop(_KILL_MARGIN_S):
            log(_LOG, logging.WARNING, "the engine's thread is still in a step")

    def __del__(self) -> None:
        """Serve calls this once no request is left."""
        if hasattr(self, "_watching"):
            self.close()

    async def _watch(self) -> None:
        """Keep the metrics up to date; in a drain, hand back what it leaves no time for."""
        while not replica_is_draining():
            self._record()
            await asyncio.sleep(_WATCH_PERIOD_S)
        log(_LOG, logging.INFO, "draining", num_requests=self._engine.num_running + self._engine.num_queued)
        self._engine.hand_back(but_within_s=self._drain_timeout_s)
        await asyncio.sleep(self._drain_timeout_s)
        # The steps of the drain count, too.
        self._record()
        self._engine.hand_back()

    def _record(self) -> None:
        self._metrics.record(self._engine.stats())
        self._metrics.record_adapters(self._adapters.stats(), len(self._engine.resident_adapters()))


def _load_engine(
    model_id: str, settings: DenoiserSettings, device: str, inpainting: bool, blobs: BlobsAtNeed
) -> tuple[Engine, torch.dtype]:
    """The engine of ``model_id`` with its branches, warm, and the precision of its UNet."""
    import torch

    from deployments.engine.acceleration import Acceleration
    from deployments.engine.cost import CostModel
    from deployments.engine.engine import Engine
    from deployments.engine.preview import PreviewMap
    from deployments.engine.samplers import NoiseSchedule
    from deployments.engine.unet import fast_branch, load_fast_unet
    from deployments.pipeline.compiled_code import CompiledCode
    from deployments.pipeline.networks import load_branches, load_inpainting_unet
    from weights import registry

    load = load_inpainting_unet if inpainting else registry.load_unet
    unet, dtype = load_fast_unet(
        lambda dtype, device: load(model_id, dtype=dtype, device=device),
        settings.precision,
        device,
        settings.num_threads,
    )
    branches = {} if inpainting else load_branches(model_id, dtype)
    preview = registry.preview_map(model_id)
    engine = Engine(
        unet,
        NoiseSchedule.from_config(registry.scheduler_config(model_id)),
        dtype=dtype,
        device=device,
        max_rows=settings.max_rows,
        max_queued_requests=settings.max_queued_requests,
        cost=CostModel(),
        branches={
            name: cast("Branch", fast_branch(branch, dtype, device)) for name, branch in branches.items()
        },
        preview=None if preview is None else PreviewMap.from_mapping(preview),
        adapter_slots=settings.adapter_slots,
        few_step=None if inpainting else registry.load_few_step(model_id),
        acceleration=Acceleration.of(device, graphs=settings.cuda_graphs, compile=settings.compile),
    )
    if device == "cpu" or settings.compile == "off":
        engine.warm_up()
    else:
        options = {"mode": settings.compile, "dtype": dtype, "max_rows": settings.max_rows}
        code = CompiledCode(blobs, cast("Any", unet).config, torch.device(device), options)
        code.load()
        engine.warm_up()
        code.save()
    return engine, dtype


def replica_is_draining() -> bool:
    """Whether Ray Serve is stopping the replica of this process.

    Serve tells user code only after its last request has ended, so this looks at Serve's own flag
    (Ray 2.60). Where it is absent, a request that outlasts the drain starts over on another replica.
    """
    actors = getattr(global_worker, "actors", {}).values()
    return any(getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False) for actor in actors)


def _name(inpainting: bool) -> str:
    return "InpaintDenoiser" if inpainting else "Denoiser"


def denoiser_app(settings: AppSettings, *, inpainting: bool = False) -> serve.Application:
    """The Denoiser deployment of ``settings``; with ``inpainting`` the one for UNets of nine channels."""
    own = settings.denoiser
    deployment = serve.deployment(
        name=_name(inpainting),
        **replica_options(own.num_replicas, own.autoscaling),
        max_ongoing_requests=own.max_queued_requests + own.max_rows + _ONGOING_MARGIN,
        ray_actor_options=actor_options(own.gpu_share if settings.use_gpu else 0),
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=own.drain_timeout_s + _KILL_MARGIN_S,
        request_router_config=router_config(own.max_rows),
    )
    return deployment(Denoiser).bind(
        settings.model, own, settings.use_gpu, inpainting, settings.store, settings.tracing
    )
