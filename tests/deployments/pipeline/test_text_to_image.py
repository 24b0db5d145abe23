"""The whole pipeline in one process: real text encoder, VAE, engine and UNet of the tiny family."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from core.errors import QueueFull
from core.specs import TextToImageSpec
from core.types import (
    Accepted,
    Completed,
    OutputFormat,
    PipelineEvent,
    Preview,
    Progress,
    SamplerName,
)
from deployments.engine import request as engine_request
from deployments.engine.request import DenoiseEvent, DenoiseRequest
from deployments.pipeline.denoising import Denoise, ReplicaLost
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.text_to_image import TextToImagePipeline
from tests.fakes import ScriptedDenoiser
from tests.replicas import Replicas

# diffusers converts tensors in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPEC = TextToImageSpec(
    request_id="r",
    prompt="red hair man",
    negative_prompt="dog",
    num_inference_steps=6,
    guidance_scale=5.0,
    seed=2**32 - 1,
    num_images=1,
    width=32,
    height=32,
    sampler=SamplerName.DDIM,
)


@pytest.fixture
def build(tiny_parts: PipelineParts) -> Callable[[Denoise], TextToImagePipeline]:
    return lambda denoise: TextToImagePipeline(tiny_parts, Painter(denoise, preview_size=64))


async def completed(pipeline: TextToImagePipeline, spec: TextToImageSpec) -> Completed:
    events = [event async for event in pipeline.generate(spec)]
    assert isinstance(events[-1], Completed)
    return events[-1]


def pixels(image: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(image)))


Build = Callable[[Denoise], TextToImagePipeline]


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
async def test_the_same_seed_gives_the_picture_of_the_diffusers_pipeline(
    build: Build, replicas: Replicas, tiny_family: Path, guidance_scale: float
) -> None:
    spec = replace(SPEC, num_images=2, guidance_scale=guidance_scale)
    done = await completed(build(replicas.denoise), spec)
    assert [picture.seed for picture in done.pictures] == [2**32 - 1, 0]
    reference = StableDiffusionPipeline.from_pretrained(tiny_family, safety_checker=None)
    reference.set_progress_bar_config(disable=True)
    for picture in done.pictures:
        expected = reference(
            spec.prompt,
            negative_prompt=spec.negative_prompt,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(picture.seed),
        ).images[0]
        error = np.square(pixels(picture.image).astype(float) - np.asarray(expected, float)).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > 45


async def test_events_come_in_order(build: Build, replicas: Replicas) -> None:
    spec = replace(SPEC, num_images=2, preview_every=2)
    events = [event async for event in build(replicas.denoise).generate(spec)]
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Completed)
    between = events[1:-1]
    assert {type(event) for event in between} == {Progress, Preview}
    progress = [event for event in between if isinstance(event, Progress)]
    assert [event.step for event in progress] == sorted(event.step for event in progress)
    assert all(event.num_steps == 12 and event.step <= 12 for event in progress)
    assert all(event.predicted_finish_s >= 0 for event in progress)
    previews = [event for event in between if isinstance(event, Preview)]
    assert {pixels(event.image).shape for event in previews} == {(64, 64, 3)}
    timings = events[-1].timings
    parts = timings.encode_s + timings.denoise_s + timings.decode_s
    assert parts == pytest.approx(timings.total_s)
    assert 0 < timings.engine_s <= timings.denoise_s
    assert 0 < timings.file_s <= timings.decode_s


async def test_a_deadline_leaves_time_to_encode_and_decode(
    build: Build, replicas: Replicas, tiny_parts: PipelineParts
) -> None:
    told: list[float | None] = []

    async def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        told.append(request.deadline_s)
        async with aclosing(replicas.denoise(request)) as events:
            async for event in events:
                yield event

    decode_s = tiny_parts.decoder.estimate_s(SPEC.width, SPEC.height)
    await completed(build(denoise), replace(SPEC, deadline_s=60.0))
    (left_s,) = told
    assert left_s is not None
    assert 30.0 < left_s < 60.0 - decode_s


async def test_a_picture_carries_its_parameters(build: Build, replicas: Replicas, tiny_model_id: str) -> None:
    spec = replace(SPEC, clip_skip=1, parameters={"Styles": "cartoon"}, width=48)
    (picture,) = (await completed(build(replicas.denoise), spec)).pictures
    image = Image.open(io.BytesIO(picture.image))
    assert image.size == (48, 32)
    assert image.info["parameters"] == (
        "red hair man\nNegative prompt: dog\n"
        f"Steps: 6, Sampler: DDIM, CFG scale: 5.0, Seed: {2**32 - 1}, Size: 48x32, "
        f"Model: {tiny_model_id}, "
        "Clip skip: 2, Styles: cartoon"
    )


@pytest.mark.parametrize("output_format", [OutputFormat.JPEG, OutputFormat.WEBP])
async def test_other_formats(build: Build, replicas: Replicas, output_format: OutputFormat) -> None:
    (picture,) = (
        await completed(build(replicas.denoise), replace(SPEC, output_format=output_format))
    ).pictures
    assert picture.media_type == output_format.media_type
    assert Image.open(io.BytesIO(picture.image)).format == output_format.value.upper()


@pytest.mark.parametrize("sampler", [SamplerName.DPMPP_2M, SamplerName.EULER_A])
async def test_a_drained_replica_changes_nothing_in_the_picture(
    build: Build, replicas: Replicas, sampler: SamplerName
) -> None:
    spec = replace(SPEC, sampler=sampler)
    replicas.hand_back_after = 3
    moved = await completed(build(replicas.denoise), spec)
    assert replicas.engines[0].stats().num_handed_back == 1
    undisturbed = await completed(build(replicas.denoise), spec)
    np.testing.assert_array_equal(pixels(moved.pictures[0].image), pixels(undisturbed.pictures[0].image))


async def test_progress_does_not_go_back_when_a_replica_dies(build: Build, replicas: Replicas) -> None:
    deaths = iter([True])

    async def dies_once(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        dying = next(deaths, False)
        async with aclosing(replicas.denoise(request)) as events:
            async for event in events:
                yield event
                if dying and isinstance(event, engine_request.Progressed) and event.step == 4:
                    raise ReplicaLost

    events = [event async for event in build(dies_once).generate(SPEC)]
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert steps == sorted(steps)
    assert sum(isinstance(event, Accepted) for event in events) == 1
    assert isinstance(events[-1], Completed)


async def test_the_failure_of_one_picture_cancels_its_siblings(build: Build) -> None:
    denoiser = ScriptedDenoiser(
        [engine_request.Accepted("r", 1.0), None], [QueueFull("full", retry_after_s=2.0)]
    )
    with pytest.raises(QueueFull) as refused:
        await completed(build(denoiser), replace(SPEC, num_images=2))
    assert refused.value.retry_after_s == 2.0
    assert denoiser.num_closed == 2


async def test_closing_cancels_every_picture(build: Build) -> None:
    denoiser = ScriptedDenoiser(*[[engine_request.Accepted("r", 1.0), None]] * 3)
    events = build(denoiser).generate(replace(SPEC, num_images=3))
    assert isinstance(await anext(events), Accepted)
    await events.aclose()
    assert denoiser.num_closed == 3


async def test_cancelling_the_reader_cancels_every_picture(build: Build) -> None:
    denoiser = ScriptedDenoiser(*[[engine_request.Accepted("r", 1.0), None]] * 2)
    accepted = asyncio.Event()

    async def read(events: AsyncGenerator[PipelineEvent, None]) -> None:
        async for _ in events:
            accepted.set()

    reader = asyncio.create_task(read(build(denoiser).generate(replace(SPEC, num_images=2))))
    await accepted.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert denoiser.num_closed == 2


async def test_a_request_sent_twice_has_other_ids_in_the_denoiser(build: Build) -> None:
    denoiser = ScriptedDenoiser([QueueFull("full")], [QueueFull("full")])
    for _ in range(2):
        with pytest.raises(QueueFull):
            await completed(build(denoiser), SPEC)
    first, second = denoiser.requests
    assert first.request_id != second.request_id


async def test_accepted_waits_for_every_picture_and_tells_the_latest_finish(build: Build) -> None:
    denoiser = ScriptedDenoiser(
        [engine_request.Accepted("r", 1.0), engine_request.Progressed("r", 1, 6, 1.0), None],
        [engine_request.Accepted("r", 9.0), None],
    )
    async with aclosing(build(denoiser).generate(replace(SPEC, num_images=2))) as events:
        accepted = await anext(events)
    assert isinstance(accepted, Accepted)
    assert accepted.predicted_finish_s > 8.5
