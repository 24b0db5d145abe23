"""The same seed gives the picture that the plain diffusers pipeline draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch import Tensor

from core.types import SamplerName
from deployments.engine.request import DenoiseRequest, HandedBack, noise_for
from deployments.engine.samplers import NoiseSchedule
from tests.deployments.engine.references import ZERO_SNR, drawn, drawn_from, pipeline_of
from tests.deployments.engine.scenes import (
    SCHEDULE,
    SHAPE,
    Listener,
    alone,
    engine,
    psnr_db,
    request,
    run,
    small_unet,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

UNET = small_unet()


def by_diffusers(wanted: DenoiseRequest, schedule: NoiseSchedule) -> Tensor:
    pipeline = pipeline_of(StableDiffusionPipeline, UNET, wanted.sampler, schedule)
    return drawn(pipeline, wanted, height=SHAPE[1], width=SHAPE[2])


@pytest.mark.parametrize("name", SamplerName)
@pytest.mark.parametrize("schedule", [SCHEDULE, ZERO_SNR], ids=["epsilon", "v-prediction"])
def test_text_to_image(name: SamplerName, schedule: NoiseSchedule) -> None:
    wanted = request(seed=3, sampler=name, num_inference_steps=8, guidance_scale=4.0)
    expected = by_diffusers(wanted, schedule)
    assert psnr_db(alone(wanted, UNET, schedule=schedule), expected) >= 60


def test_one_batch_of_all_samplers_equals_the_pipelines() -> None:
    wanted = [
        request(f"r{i}", seed=i, sampler=name, num_inference_steps=5 + i, guidance_scale=1.5 + i)
        for i, name in enumerate(SamplerName)
    ]
    listeners = [Listener() for _ in wanted]
    shared = engine(UNET, max_rows=12)
    for each, listener in zip(wanted, listeners, strict=True):
        shared.submit(each, listener)
    run(shared)
    for each, listener in zip(wanted, listeners, strict=True):
        assert psnr_db(listener.latents, by_diffusers(each, SCHEDULE)) >= 45, each.sampler


@pytest.mark.parametrize("name", [SamplerName.DDIM, SamplerName.EULER_A, SamplerName.DPMPP_2M])
@pytest.mark.parametrize("start_step", [0, 3])
def test_image_to_image(name: SamplerName, start_step: int) -> None:
    source = noise_for(99, SHAPE)
    wanted = request(seed=5, sampler=name, num_inference_steps=8, start_step=start_step, source=source)
    pipeline = pipeline_of(StableDiffusionImg2ImgPipeline, UNET, name, SCHEDULE)
    expected = drawn_from(source, pipeline, wanted)
    assert psnr_db(alone(wanted, UNET), expected) >= 60


def test_outside_the_guidance_interval_there_is_no_guidance() -> None:
    guided = request(seed=4, guidance_interval=(0.0, 0.5))
    never = request(seed=4, guidance_interval=(0.0, 0.0))
    unguided = request(seed=4, guidance_scale=1.0, negative_embeds=None)
    assert torch.equal(alone(never, UNET), alone(unguided, UNET))
    assert psnr_db(alone(guided, UNET), alone(unguided, UNET)) < 40


def test_bfloat16_stays_close_to_the_same_request_alone() -> None:
    half = small_unet().to(torch.bfloat16)
    wanted = [request(f"r{i}", seed=i, num_inference_steps=6 + i) for i in range(4)]
    listeners = [Listener() for _ in wanted]
    shared = engine(half, dtype=torch.bfloat16)
    for each, listener in zip(wanted, listeners, strict=True):
        shared.submit(each, listener)
    run(shared)
    for each, listener in zip(wanted, listeners, strict=True):
        assert psnr_db(listener.latents, alone(each, half, dtype=torch.bfloat16)) >= 32


def test_a_changed_neighbour_does_not_change_the_row() -> None:
    drawn = []
    for neighbour in (
        request("n", seed=8, guidance_scale=2.0),
        request("n", seed=9, sampler=SamplerName.LCM, guidance_scale=30.0),
    ):
        shared, listener = engine(UNET), Listener()
        shared.submit(request("r", seed=1), listener)
        shared.submit(neighbour, Listener())
        run(shared)
        drawn.append(listener.latents)
    assert psnr_db(drawn[0], drawn[1]) >= 90


def test_a_resumed_request_draws_the_same_picture() -> None:
    for name in SamplerName:
        wanted = request(seed=6, sampler=name, num_inference_steps=7)
        first, listener = engine(UNET), Listener()
        first.submit(wanted, listener)
        run(first, until=lambda heard=listener: len(heard.events) == 3)  # type: ignore[misc]
        first.hand_back()
        run(first)
        (end,) = listener.ends
        assert isinstance(end, HandedBack)
        assert end.snapshot is not None
        assert end.snapshot.step == 3
        resumed = alone(replace(wanted, snapshot=end.snapshot), UNET)
        assert torch.equal(resumed, alone(wanted, UNET)), name
