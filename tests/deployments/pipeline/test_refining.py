"""Tiles: they cover the picture, and nobody sees where they meet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.settings import PipelineSettings
from core.specs import Hires, TextToImageSpec, UpscaleSpec
from core.types import Completed, ModelInfo, Progress, SamplerName
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts, load_parts
from deployments.pipeline.refining import plan_refinement
from deployments.pipeline.text_to_image import TextToImagePipeline
from deployments.pipeline.upscale import UpscalePipeline
from tests.replicas import Replicas

INFO = ModelInfo("m", "f", "", 64, 32, 128, 16, 1, "epsilon", SamplerName.DDIM, 20, 5.0)
UPSCALE = UpscaleSpec(
    request_id="r",
    prompt="red hair man",
    negative_prompt="",
    num_inference_steps=10,
    guidance_scale=3.0,
    seed=5,
    num_images=1,
    sampler=SamplerName.DDIM,
    image=b"",
    scale=2,
    strength=0.3,
)


@given(st.integers(1, 500), st.integers(1, 500))
def test_tiles_cover_the_picture_and_overlap(width: int, height: int) -> None:
    plan = plan_refinement(INFO, width, height, 0.3, 20)
    assert plan.padded_width % 16 == plan.padded_height % 16 == 0
    assert 0 <= plan.padded_width - width < 16
    covered = np.zeros((plan.padded_height, plan.padded_width), int)
    for left, top in plan.corners:
        assert left % 16 == top % 16 == 0
        assert left + plan.tile_width <= plan.padded_width
        assert top + plan.tile_height <= plan.padded_height
        covered[top : top + plan.tile_height, left : left + plan.tile_width] += 1
    assert covered.min() >= 1
    for starts in ({left for left, _ in plan.corners}, {top for _, top in plan.corners}):
        gaps = np.diff(sorted(starts))
        assert all(gaps <= 48)
    assert plan.num_steps == len(plan.corners) * 6


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def mini_parts() -> PipelineParts:
    return load_parts("mini", PipelineSettings(precision="float32"), "cpu")


@pytest.fixture(scope="module")
def mini_replicas() -> Iterator[Replicas]:
    started = Replicas("mini", 1)
    yield started
    started.stop()


async def upscaled(
    parts: PipelineParts, replicas: Replicas, spec: UpscaleSpec
) -> tuple[npt.NDArray[np.uint8], list[Progress]]:
    events = [event async for event in UpscalePipeline(parts, Painter(replicas.denoise)).generate(spec)]
    assert isinstance(events[-1], Completed)
    picture = np.asarray(Image.open(io.BytesIO(events[-1].pictures[0].image)))
    return picture, [event for event in events if isinstance(event, Progress)]


@pytest.mark.parametrize("color", [(255, 255, 255), (30, 90, 200)])
async def test_a_flat_color_has_no_seams(
    mini_parts: PipelineParts, mini_replicas: Replicas, color: tuple[int, int, int]
) -> None:
    flat = np.full((80, 100, 3), color, np.uint8)
    spec = replace(UPSCALE, prompt="", image=png(flat), sampler=SamplerName.DPMPP_2M)
    picture, _ = await upscaled(mini_parts, mini_replicas, spec)
    assert picture.shape == (160, 200, 3)
    plan = plan_refinement(mini_parts.info, 200, 160, spec.strength, spec.num_inference_steps)
    assert len(plan.corners) == 4
    blocks = picture.astype(float).reshape(10, 16, 10, 20, 3).mean((1, 3))
    assert np.abs(blocks - color).max() < 8
    # A seam is a line along which the tone changes at once. The padding at the border is not one.
    inner = picture[8:-8, 8:-8].astype(float)
    assert np.abs(np.diff(inner.mean(1), axis=0)).max() < 3
    assert np.abs(np.diff(inner.mean(0), axis=0)).max() < 3


async def test_progress_counts_the_steps_of_all_tiles(tiny_parts: PipelineParts, replicas: Replicas) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    spec = replace(UPSCALE, image=png(noise), scale=4)
    picture, progress = await upscaled(tiny_parts, replicas, spec)
    assert picture.shape == (128, 192, 3)
    plan = plan_refinement(tiny_parts.info, 192, 128, 0.3, 10)
    assert len(plan.corners) > 1
    assert {event.num_steps for event in progress} == {plan.num_steps}
    again, _ = await upscaled(tiny_parts, replicas, spec)
    # Rows meet in other batches, which changes the order of sums.
    assert np.abs(picture.astype(int) - again.astype(int)).max() <= 2


async def test_hires_enlarges_what_was_drawn(tiny_parts: PipelineParts, replicas: Replicas) -> None:
    common = {
        name: getattr(UPSCALE, name)
        for name in ("request_id", "prompt", "negative_prompt", "guidance_scale", "seed", "num_images")
    }
    spec = TextToImageSpec(**common, num_inference_steps=6, sampler=SamplerName.DDIM, width=32, height=32)
    pipeline = TextToImagePipeline(tiny_parts, Painter(replicas.denoise))
    sizes, steps = [], []
    for hires in (None, Hires(scale=1.5, strength=0.4)):
        events = [event async for event in pipeline.generate(replace(spec, hires=hires))]
        assert isinstance(events[-1], Completed)
        picture = events[-1].pictures[0]
        sizes.append((picture.width, picture.height))
        steps += [event.num_steps for event in events if isinstance(event, Progress)][-1:]
    assert sizes == [(32, 32), (48, 48)]
    assert steps[0] == 6 < steps[1]
