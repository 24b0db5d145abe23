from __future__ import annotations

import asyncio

import pytest
import torch

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.request import (
    Accepted,
    DenoiseEvent,
    DenoiseRequest,
    Done,
    HandedBack,
    Progressed,
    noise_for,
)
from deployments.engine.samplers import NoiseSchedule
from deployments.pipeline.streaming import stream_events
from tests.fakes import TinyUNet


def request(num_steps: int = 3) -> DenoiseRequest:
    return DenoiseRequest(
        request_id="r",
        prompt_embeds=torch.full((2, 8), 0.1),
        noise=noise_for(0, (4, 8, 8)),
        sampler=SamplerName.DDIM,
        num_inference_steps=num_steps,
        guidance_scale=1.0,
        seed=0,
    )


@pytest.fixture
def engine() -> Engine:
    return Engine(
        TinyUNet(),
        NoiseSchedule(),
        dtype=torch.float32,
        device="cpu",
        max_rows=4,
        max_queued_requests=4,
        cost=CostModel(),
    )


async def test_events_of_the_engines_thread_arrive_in_order(engine: Engine) -> None:
    events = stream_events(engine, request(), progress_interval_s=0)
    received: list[DenoiseEvent] = [await anext(events)]
    while await asyncio.to_thread(engine.step):
        pass
    received += [event async for event in events]
    assert [type(event) for event in received] == [Accepted, Progressed, Progressed, Progressed, Done]


async def test_progress_in_quick_succession_is_thinned_out(engine: Engine) -> None:
    events = stream_events(engine, request(), progress_interval_s=60)
    await anext(events)
    while engine.step():
        pass
    assert [type(event) async for event in events] == [Progressed, Done]


async def test_a_refused_request_raises(engine: Engine) -> None:
    with pytest.raises(InvalidRequest):
        await anext(stream_events(engine, request(num_steps=0)))


async def test_closing_the_stream_cancels_the_request(engine: Engine) -> None:
    events = stream_events(engine, request(num_steps=100))
    await anext(events)
    engine.step()
    await events.aclose()
    engine.step()
    assert engine.stats().num_cancelled == 1


async def test_cancelling_the_reader_cancels_the_request(engine: Engine) -> None:
    accepted = asyncio.Event()

    async def read() -> None:
        async for _ in stream_events(engine, request(num_steps=100)):
            accepted.set()

    reader = asyncio.create_task(read())
    await accepted.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    engine.step()
    assert engine.stats().num_cancelled == 1


async def test_a_request_that_has_ended_is_not_cancelled(engine: Engine) -> None:
    events = stream_events(engine, request())
    await anext(events)
    engine.hand_back()
    engine.step()
    assert [type(event) async for event in events] == [HandedBack]
    assert engine.stats().num_cancelled == 0
