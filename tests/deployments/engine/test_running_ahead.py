"""A device that is given a step while it computes the one before: the same pictures, and the same ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from core.errors import GenerationFailed
from core.types import SamplerName
from deployments.engine.acceleration import Acceleration
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.preview import PreviewMap
from deployments.engine.request import Cancelled, Done, Failed, HandedBack, Previewed, Progressed
from tests.deployments.engine.scenes import CONTEXT_DIM, Listener, alone, engine, request, run, submitted
from tests.deployments.engine.test_engine_ends import marked
from tests.fakes import TinyUNet, VirtualClock

AHEAD = Acceleration(ahead_below_ms=math.inf)


def ahead(unet: Any = None, **changes: Any) -> Engine:
    return engine(unet, acceleration=AHEAD, **changes)


def test_pictures_and_events_are_those_of_one_step_at_a_time() -> None:
    wanted = [
        request("a", seed=1, num_inference_steps=3),
        request("b", seed=2, num_inference_steps=5, sampler=SamplerName.EULER_A, preview_every=2),
        request("c", seed=3, num_inference_steps=1, guidance_scale=1.0),
    ]
    preview = PreviewMap(torch.eye(4, 3), torch.zeros(3))
    first, second = ahead(preview=preview), engine(preview=preview)
    heard, expected = submitted(first, *wanted), submitted(second, *wanted)
    run(first)
    run(second)
    for each in wanted:
        got, right = heard[each.request_id], expected[each.request_id]
        assert torch.equal(got.latents, right.latents)
        assert [type(event) for event in got.events] == [type(event) for event in right.events]
        for kind in (Progressed, Previewed):
            steps = [
                [event.step for event in each.events if isinstance(event, kind)] for each in (got, right)
            ]
            assert steps[0] == steps[1]


def test_a_step_is_told_of_when_the_next_one_is_under_way() -> None:
    unet = TinyUNet(CONTEXT_DIM)
    own = ahead(unet)
    heard = submitted(own, request("r", num_inference_steps=2))["r"]
    assert own.step()
    assert (len(unet.rows_seen), heard.events) == (1, [])
    own.step()
    assert len(unet.rows_seen) == 2
    assert [type(event) for event in heard.events] == [Progressed]
    assert own.wait_for_work()
    own.step()
    assert len(unet.rows_seen) == 2
    assert isinstance(heard.ends[0], Done)
    assert not own.step()


def test_a_finished_request_makes_room_before_it_is_told_of() -> None:
    unet = TinyUNet(CONTEXT_DIM)
    own = ahead(unet, max_rows=2)
    heard = submitted(own, request("first", num_inference_steps=1), request("second", num_inference_steps=1))
    own.step()
    assert (own.num_running, own.num_queued) == (0, 1)
    own.step()
    assert unet.rows_seen == [2, 2]
    assert [len(each.ends) for each in heard.values()] == [1, 0]
    run(own)
    assert isinstance(heard["second"].ends[0], Done)


def test_latents_that_are_not_finite_fail_a_step_later_and_alone() -> None:
    own = ahead()
    good = request("good", seed=1, num_inference_steps=6)
    heard = submitted(own, marked("bad", 666.0, num_inference_steps=6), good)
    for _ in range(2):
        own.step()
    assert isinstance(heard["bad"].ends[0], Failed)
    run(own)
    assert [len(each.ends) for each in heard.values()] == [1, 1]
    assert torch.equal(heard["good"].latents, alone(good))


def test_a_call_that_raises_fails_its_request_alone() -> None:
    own = ahead()
    good = request("good", seed=1)
    heard = submitted(own, marked("bad", 13.0), good)
    run(own)
    assert isinstance(heard["bad"].ends[0], Failed)
    assert torch.equal(heard["good"].latents, alone(good))


def test_a_promised_cancellation_comes_before_the_picture_under_way() -> None:
    own = ahead()
    heard = submitted(own, request("r", num_inference_steps=1))["r"]
    own.step()
    assert own.cancel("r")
    run(own)
    assert heard.events[-1:] == [Cancelled("r")]
    assert len(heard.ends) == 1


def test_who_is_handed_back_has_the_step_under_way_done() -> None:
    own = ahead()
    wanted = request("r", sampler=SamplerName.DPMPP_2M, num_inference_steps=5)
    heard = submitted(own, wanted)["r"]
    own.step()
    own.step()
    own.hand_back()
    run(own)
    (end,) = heard.ends
    assert isinstance(end, HandedBack)
    assert end.snapshot is not None
    assert end.snapshot.step == 2
    resumed = request(
        "r", sampler=SamplerName.DPMPP_2M, num_inference_steps=5, snapshot=end.snapshot, moved=True
    )
    assert torch.equal(alone(resumed), alone(wanted))
    assert not own.wait_for_work()


def test_the_last_step_is_not_handed_back() -> None:
    own = ahead()
    heard = submitted(own, request("r", num_inference_steps=1))["r"]
    own.step()
    own.hand_back()
    run(own)
    assert isinstance(heard.ends[0], Done)


def test_a_broken_engine_forgets_the_step_under_way() -> None:
    own = ahead()
    heard = submitted(own, request("r"))["r"]
    own.step()
    own.fail_all(GenerationFailed("broken"))
    assert not own.step()
    assert [type(event) for event in heard.ends] == [Failed]
    listener = Listener()
    own.submit(request("r"), listener)
    run(own)
    assert torch.equal(listener.latents, alone(request("r")))


def test_steps_under_way_count_once_in_what_they_cost() -> None:
    clock, cost = VirtualClock(), CostModel()
    own = ahead(TinyUNet(clock=clock, row_s=0.05), clock=clock, cost=cost)
    submitted(own, request("r", num_inference_steps=40))
    run(own)
    assert own.stats().busy_s == pytest.approx(40 * 2 * 0.05)
    assert own.stats().num_row_steps == 80
