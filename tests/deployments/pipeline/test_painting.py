"""What every pipeline shares, with pictures that are painted by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
import torch

from core.specs import TextToImageSpec
from core.types import Accepted, Picture, SamplerName
from deployments.engine import request as engine
from deployments.pipeline.painting import Painter, Stroke
from tests.deployments.engine.scenes import request

SPEC = TextToImageSpec(
    request_id="r",
    prompt="a man",
    negative_prompt="",
    num_inference_steps=1,
    guidance_scale=1.0,
    seed=1,
    num_images=1,
    width=32,
    height=32,
    sampler=SamplerName.DDIM,
)
PREDICTED_S, AFTER_S = 1.0, 0.02


async def denoise(wanted: engine.DenoiseRequest) -> AsyncGenerator[engine.DenoiseEvent, None]:
    yield engine.Accepted(wanted.request_id, PREDICTED_S)
    yield engine.Done(wanted.request_id, torch.zeros(1), 1, 0.0, 0.0)


async def paint(stroke: Stroke) -> Picture:
    await stroke.denoise(request())
    await asyncio.sleep(AFTER_S)
    return Picture(stroke.index, stroke.seed, b"", "image/png", 32, 32)


async def foretold(painter: Painter, decode_s: float) -> float:
    events = painter.paint(SPEC, paint, num_steps=1, decode_s=decode_s, began=time.monotonic())
    told = [event async for event in events]
    assert isinstance(told[0], Accepted)
    return told[0].predicted_finish_s


async def test_finishes_are_foretold_by_what_followed_the_steps_before() -> None:
    painter = Painter(denoise)
    first, second, third = [await foretold(painter, 0.0) for _ in range(3)]
    assert first == pytest.approx(PREDICTED_S)
    assert PREDICTED_S + AFTER_S / 5 <= second < third


async def test_what_the_decoder_knew_is_not_counted_twice() -> None:
    painter = Painter(denoise)
    for _ in range(3):
        assert await foretold(painter, 60.0) == pytest.approx(PREDICTED_S + 60.0)
