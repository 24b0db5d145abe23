from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest
import pytest_asyncio
import torch
from ray._private.worker import global_worker

from core.errors import InvalidRequest, ShuttingDown
from core.settings import AppSettings, DenoiserSettings
from core.types import SamplerName
from deployments import denoiser
from deployments.denoiser import Denoiser, Unhealthy, denoiser_app, replica_is_draining
from deployments.engine.request import Accepted, DenoiseRequest, Done, Failed, noise_for
from tests.tiny_family import CONTEXT_WIDTH, LATENT_SIZE

SETTINGS = DenoiserSettings(precision="float32", num_threads=1, max_rows=2)


def request(num_steps: int = 2) -> DenoiseRequest:
    return DenoiseRequest(
        request_id="r",
        prompt_embeds=torch.zeros(77, CONTEXT_WIDTH),
        noise=noise_for(0, (4, LATENT_SIZE, LATENT_SIZE)),
        sampler=SamplerName.DDIM,
        num_inference_steps=num_steps,
        guidance_scale=1.0,
        seed=0,
    )


@pytest_asyncio.fixture
async def replica(tiny_model_id: str) -> AsyncGenerator[Denoiser, None]:
    started = Denoiser(tiny_model_id, SETTINGS, use_gpu=False)
    yield started
    started.close()


async def test_a_request_is_streamed_to_its_end(replica: Denoiser) -> None:
    events = [event async for event in replica.denoise(request())]
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Done)
    assert events[-1].latents.shape == (4, LATENT_SIZE, LATENT_SIZE)
    assert await replica.record_autoscaling_stats() == {"work_s": 0.0}


async def test_a_bad_request_is_refused(replica: Denoiser) -> None:
    (event,) = [event async for event in replica.denoise(request(num_steps=0))]
    assert isinstance(event, Failed)
    assert isinstance(event.error, InvalidRequest)


async def test_a_replica_is_healthy_until_its_thread_ends(replica: Denoiser) -> None:
    await replica.check_health()
    replica.close()
    with pytest.raises(Unhealthy):
        await replica.check_health()
    refused = await anext(replica.denoise(request()))
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, ShuttingDown)


async def test_a_replica_whose_work_does_not_move_is_unhealthy(
    replica: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = replica._engine.stats()
    stuck = type(stats)(**{name: getattr(stats, name) for name in stats.__slots__} | {"num_running": 1})
    monkeypatch.setattr(replica._engine, "stats", lambda: stuck)
    await replica.check_health()
    monkeypatch.setattr(denoiser, "STUCK_AFTER_S", 0.0)
    with pytest.raises(Unhealthy, match="No step"):
        await replica.check_health()


def test_serves_own_flag_tells_of_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    serves = SimpleNamespace(_replica_impl=SimpleNamespace(_shutting_down=False))
    monkeypatch.setattr(global_worker, "actors", {"id": serves, "other": object()})
    assert not replica_is_draining()
    serves._replica_impl._shutting_down = True
    assert replica_is_draining()


@pytest.mark.parametrize(("use_gpu", "share"), [(False, 0), (True, 0.6)])
def test_the_application_asks_for_its_share_of_a_gpu(use_gpu: bool, share: float) -> None:
    settings = AppSettings(use_gpu=use_gpu)
    deployment = denoiser_app(settings)._bound_deployment
    assert deployment.name == "Denoiser"
    assert deployment.ray_actor_options is not None
    assert deployment.ray_actor_options["num_gpus"] == share
    assert deployment.max_ongoing_requests > settings.denoiser.max_queued_requests
