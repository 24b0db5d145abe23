from __future__ import annotations

import pytest
import torch

from core.errors import DeadlineExceeded, GenerationFailed, QueueFull, RequestCancelled, ShuttingDown
from core.types import SamplerName
from deployments.engine.request import (
    Accepted,
    Cancelled,
    DenoiseRequest,
    Done,
    Failed,
    HandedBack,
    Progressed,
    Snapshot,
    noise_for,
)
from deployments.pipeline.denoising import MAX_LOST, MAX_MOVES, ReplicaLost, denoise_to_the_end
from tests.fakes import ScriptedDenoiser

LATENTS = torch.zeros(4, 2, 2)
ACCEPTED = Accepted("r", 1.0)
DONE = Done("r", LATENTS, 4, 0.0, 1.0)
SNAPSHOT = Snapshot(latents=LATENTS, x_prev=LATENTS, m_prev=LATENTS, step=2)


def request(deadline_s: float | None = None) -> DenoiseRequest:
    return DenoiseRequest(
        request_id="r",
        prompt_embeds=torch.zeros(2, 8),
        noise=noise_for(0, (4, 2, 2)),
        sampler=SamplerName.EULER,
        num_inference_steps=4,
        guidance_scale=1.0,
        seed=0,
        deadline_s=deadline_s,
    )


async def test_events_pass_through_up_to_done() -> None:
    denoiser = ScriptedDenoiser([ACCEPTED, Progressed("r", 1, 4, 0.5), DONE, ACCEPTED])
    events = [event async for event in denoise_to_the_end(denoiser, request())]
    assert [type(event) for event in events] == [Accepted, Progressed, Done]
    assert denoiser.num_closed == 1


async def test_a_request_handed_back_goes_on_from_its_snapshot() -> None:
    denoiser = ScriptedDenoiser([ACCEPTED, HandedBack("r", SNAPSHOT)], [ACCEPTED, DONE])
    events = [event async for event in denoise_to_the_end(denoiser, request())]
    assert [type(event) for event in events] == [Accepted, Accepted, Done]
    first, second = denoiser.requests
    assert second.snapshot is SNAPSHOT
    assert second.request_id != first.request_id
    assert (first.moved, second.moved) == (False, True)


async def test_a_request_handed_back_before_it_started_keeps_the_snapshot_it_came_with() -> None:
    denoiser = ScriptedDenoiser(
        [ACCEPTED, HandedBack("r", SNAPSHOT)], [ACCEPTED, HandedBack("r", None)], [ACCEPTED, DONE]
    )
    async for _ in denoise_to_the_end(denoiser, request()):
        pass
    assert [sent.snapshot for sent in denoiser.requests] == [None, SNAPSHOT, SNAPSHOT]


@pytest.mark.parametrize(
    "trouble", [ReplicaLost(), Failed("r", ShuttingDown("going")), HandedBack("r", None)]
)
async def test_a_request_starts_over_elsewhere(trouble: Exception | HandedBack | Failed) -> None:
    denoiser = ScriptedDenoiser([ACCEPTED, trouble], [ACCEPTED, DONE])
    events = [event async for event in denoise_to_the_end(denoiser, request())]
    assert isinstance(events[-1], Done)
    assert [sent.snapshot for sent in denoiser.requests] == [None, None]


async def test_a_request_that_nobody_accepted_yet_has_not_moved() -> None:
    denoiser = ScriptedDenoiser([Failed("r", ShuttingDown("going"))], [ReplicaLost()], [ACCEPTED, DONE])
    async for _ in denoise_to_the_end(denoiser, request()):
        pass
    assert [sent.moved for sent in denoiser.requests] == [False, False, False]


async def test_a_request_may_not_kill_replica_after_replica() -> None:
    denoiser = ScriptedDenoiser(*[[ReplicaLost()]] * (MAX_LOST + 2))
    with pytest.raises(GenerationFailed):
        await anext(denoise_to_the_end(denoiser, request()))
    assert len(denoiser.requests) == MAX_LOST + 1


async def test_a_request_does_not_move_for_ever() -> None:
    denoiser = ScriptedDenoiser(*[[HandedBack("r", None)]] * (MAX_MOVES + 1))
    with pytest.raises(GenerationFailed):
        await anext(denoise_to_the_end(denoiser, request()))
    assert len(denoiser.requests) == MAX_MOVES


@pytest.mark.parametrize("ending", [QueueFull("full"), Failed("r", QueueFull("full"))])
async def test_errors_are_raised_and_not_tried_again(ending: Exception | Failed) -> None:
    denoiser = ScriptedDenoiser([ending])
    with pytest.raises(QueueFull):
        await anext(denoise_to_the_end(denoiser, request()))
    assert len(denoiser.requests) == 1


async def test_a_cancelled_request_raises() -> None:
    with pytest.raises(RequestCancelled):
        await anext(denoise_to_the_end(ScriptedDenoiser([Cancelled("r")]), request()))


async def test_the_deadline_goes_on_running_across_replicas() -> None:
    denoiser = ScriptedDenoiser([HandedBack("r", None)], [DONE])
    await anext(denoise_to_the_end(denoiser, request(deadline_s=60)))
    first, second = (sent.deadline_s for sent in denoiser.requests)
    assert first is not None
    assert second is not None
    assert second < first


async def test_a_deadline_that_passes_on_the_way_ends_the_request() -> None:
    denoiser = ScriptedDenoiser([HandedBack("r", None)])
    with pytest.raises(DeadlineExceeded):
        await anext(denoise_to_the_end(denoiser, request(deadline_s=1e-9)))


async def test_closing_closes_the_stream_to_the_denoiser() -> None:
    denoiser = ScriptedDenoiser([ACCEPTED, None])
    events = denoise_to_the_end(denoiser, request())
    await anext(events)
    await events.aclose()
    assert denoiser.num_closed == 1
