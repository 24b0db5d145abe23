from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
import torch
from ray._private.worker import global_worker

from core.errors import BrokenAdapter, InvalidRequest, NotFound, ShuttingDown
from core.settings import AppSettings, DenoiserSettings, StoreSettings
from core.types import SamplerName
from deployments import denoiser
from deployments.denoiser import Denoiser, Unhealthy, denoiser_app, replica_is_draining
from deployments.engine.request import Accepted, AdapterInput, DenoiseRequest, Done, Failed, noise_for
from store.blobs import Blobs
from store.keys import adapter_file, adapter_folder
from tests.adapter_files import merged_family, put, random_layers
from tests.powerpaint_files import build_v1_release
from tests.tiny_family import CONTEXT_WIDTH, LATENT_SIZE, build_tiny_family
from weights import registry
from weights.adapters import AdapterWeights

SETTINGS = DenoiserSettings(precision="float32", num_threads=1, max_rows=2, adapter_slots=4)


def request(num_steps: int = 2, *adapters: AdapterInput) -> DenoiseRequest:
    return DenoiseRequest(
        request_id="r",
        prompt_embeds=torch.zeros(77, CONTEXT_WIDTH),
        noise=noise_for(0, (4, LATENT_SIZE, LATENT_SIZE)),
        sampler=SamplerName.DDIM,
        num_inference_steps=num_steps,
        guidance_scale=1.0,
        seed=0,
        adapters=adapters,
    )


def using(adapter_id: str, sha256: str = "") -> DenoiseRequest:
    return request(2, AdapterInput(adapter_id=adapter_id, weight=1.0, sha256=sha256))


def stored_in(folder: Path) -> StoreSettings:
    return StoreSettings(blobs=f"file://{folder}")


@pytest_asyncio.fixture
async def replica(tiny_model_id: str, tmp_path: Path) -> AsyncGenerator[Denoiser, None]:
    started = Denoiser(tiny_model_id, SETTINGS, use_gpu=False, store=stored_in(tmp_path))
    yield started
    started.close()


@pytest.fixture
def adapter(tiny_model_id: str) -> AdapterWeights:
    return AdapterWeights(random_layers(registry.load_unet(tiny_model_id), seed=1), {})


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(f"file://{tmp_path}")


async def last_event(denoiser: Denoiser, asked: DenoiseRequest) -> object:
    return [event async for event in denoiser.denoise(asked)][-1]


async def latents(denoiser: Denoiser, asked: DenoiseRequest) -> torch.Tensor:
    event = await last_event(denoiser, asked)
    assert isinstance(event, Done)
    return event.latents


async def test_a_request_is_streamed_to_its_end(replica: Denoiser) -> None:
    events = [event async for event in replica.denoise(request())]
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Done)
    assert events[-1].latents.shape == (4, LATENT_SIZE, LATENT_SIZE)
    stats = await replica.record_autoscaling_stats()
    assert stats["work_s"] == 0.0
    assert stats["load"] > 0.0


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


async def test_an_adapter_acts_as_if_it_were_in_the_unets_weights(
    replica: Denoiser, tiny_family: Path, adapter: AdapterWeights, blobs: Blobs, tmp_path: Path
) -> None:
    sha256 = put(blobs, "adp_1", adapter)
    plain = await latents(replica, request())
    adapted = await latents(replica, using("adp_1", sha256))
    assert await replica.record_routing_stats() == {"adapters": ["adp_1"]}
    merged = Denoiser(
        f"path:{merged_family(tiny_family, tmp_path / 'merged', {1.0: adapter})}", SETTINGS, use_gpu=False
    )
    expected = await latents(merged, request())
    merged.close()
    torch.testing.assert_close(adapted, expected, rtol=1e-4, atol=1e-4)
    assert (adapted - plain).abs().mean() > 0.1
    assert (await latents(replica, request())).equal(plain)


async def test_a_deleted_or_spoilt_adapter_fails_its_own_request_alone(
    replica: Denoiser, adapter: AdapterWeights, blobs: Blobs
) -> None:
    sha256 = put(blobs, "adp_1", adapter)
    put(blobs, "adp_2", adapter)
    blobs.write(adapter_file("adp_2"), b"spoilt")
    asked = using("adp_1", sha256), using("adp_gone"), using("adp_2", sha256), request()
    ends = await asyncio.gather(
        *(last_event(replica, replace(each, request_id=str(n))) for n, each in enumerate(asked))
    )
    done, gone, spoilt, plain = ends
    assert isinstance(done, Done)
    assert isinstance(plain, Done)
    assert isinstance(gone, Failed)
    assert isinstance(gone.error, NotFound)
    assert isinstance(spoilt, Failed)
    assert isinstance(spoilt.error, BrokenAdapter)


async def test_a_forgotten_adapter_is_gone_from_memory_and_slots(
    replica: Denoiser, adapter: AdapterWeights, blobs: Blobs
) -> None:
    put(blobs, "adp_1", adapter)
    await latents(replica, using("adp_1"))
    assert replica._engine.resident_adapters() == {"adp_1"}
    replica._metrics.record_adapters(replica._adapters.stats(), 1)
    blobs.delete(adapter_folder("adp_1"))
    await replica.forget_adapter("adp_1")
    assert replica._engine.resident_adapters() == frozenset()
    assert replica._adapters.stats().num_resident == 0
    refused = await last_event(replica, using("adp_1"))
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, NotFound)


async def test_the_inpainting_unet_refuses_an_adapter_for_a_first_layer_of_four_channels(
    tmp_path: Path, blobs: Blobs
) -> None:
    family = build_tiny_family(tmp_path / "family")
    build_v1_release(family / "powerpaint", family)
    model_id = f"path:{family}"
    unet = registry.load_unet(model_id)
    put(blobs, "adp_first", AdapterWeights(random_layers(unet, 0, of=lambda path: path == "conv_in"), {}))
    put(blobs, "adp_inner", AdapterWeights(random_layers(unet, 1), {}))
    painting = Denoiser(model_id, SETTINGS, use_gpu=False, inpainting=True, store=stored_in(tmp_path))
    extra = torch.zeros(5, LATENT_SIZE, LATENT_SIZE)
    refused = await last_event(painting, replace(using("adp_first"), extra_channels=extra))
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, InvalidRequest)
    assert "conv_in" in refused.error.message
    plain = await latents(painting, replace(request(), extra_channels=extra))
    adapted = await latents(painting, replace(using("adp_inner"), extra_channels=extra))
    painting.close()
    assert (adapted - plain).abs().mean() > 0.1


async def test_a_store_that_cannot_be_reached_hinders_only_adapters(tiny_model_id: str) -> None:
    away = StoreSettings(blobs="nowhere://at.all")
    denoiser = Denoiser(tiny_model_id, SETTINGS, use_gpu=False, store=away)
    assert isinstance(await last_event(denoiser, request()), Done)
    assert isinstance(await last_event(denoiser, using("adp_1")), Failed)
    denoiser.close()


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
