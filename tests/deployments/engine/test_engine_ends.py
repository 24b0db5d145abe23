"""How requests end: done, failed, cancelled or handed back, and never at a neighbour's cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from core.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    GenerationFailed,
    QueueFull,
    ShuttingDown,
)
from core.types import SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.request import (
    Cancelled,
    DenoiseEvent,
    DenoiseRequest,
    Done,
    Failed,
    HandedBack,
)
from tests.deployments.engine.scenes import (
    CONTEXT_DIM,
    SHAPE,
    Listener,
    alone,
    engine,
    request,
    run,
    submitted,
)
from tests.fakes import TinyUNet, VirtualClock

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def marked(request_id: str, mark: float, **changes: Any) -> DenoiseRequest:
    """A request that TinyUNet stumbles over: 13 raises, 666 gives NaN."""
    wanted = request(request_id, **changes)
    embeds = wanted.prompt_embeds.clone()
    embeds[0, 0] = mark
    return replace(wanted, prompt_embeds=embeds)


def rerun(own: Engine, wanted: DenoiseRequest) -> torch.Tensor:
    listener = Listener()
    own.submit(wanted, listener)
    run(own)
    return listener.latents


def test_cancelling_frees_the_rows_at_the_next_step() -> None:
    unet = TinyUNet(CONTEXT_DIM)
    own = engine(unet, max_rows=2)
    heard = submitted(own, request("running", num_inference_steps=50), request("waiting"))
    own.step()
    assert own.cancel("running")
    own.step()
    assert heard["running"].ends == [Cancelled("running")]
    assert own.num_running == 1
    assert not own.cancel("running")
    assert not own.cancel("unknown")


def test_a_queued_request_can_be_cancelled() -> None:
    own = engine(max_rows=2)
    heard = submitted(own, request("running"), request("waiting", num_inference_steps=9))
    own.step()
    own.cancel("waiting")
    run(own)
    assert heard["waiting"].events == [Cancelled("waiting")]
    assert isinstance(heard["running"].ends[0], Done)


def test_a_cancel_during_the_last_step_is_kept() -> None:
    class Cancelling(TinyUNet):
        def forward(self, *inputs: Any, **options: Any) -> Any:
            if len(self.rows_seen) == 3:
                assert own.cancel("late")
            return super().forward(*inputs, **options)

    own = engine(Cancelling(CONTEXT_DIM))
    heard = submitted(own, request("late", num_inference_steps=4))
    run(own)
    assert heard["late"].ends == [Cancelled("late")]


def test_a_deadline_ends_the_request_wherever_it_is() -> None:
    clock = VirtualClock()
    own = engine(
        TinyUNet(clock=clock, row_s=0.5), clock=clock, max_rows=2, cost=CostModel(default_row_ms=0.001)
    )
    heard = submitted(
        own, request("running", deadline_s=2.5), request("waiting", deadline_s=2.5), request("patient")
    )
    run(own)
    for name in ("running", "waiting"):
        (end,) = heard[name].ends
        assert isinstance(end, Failed)
        assert isinstance(end.error, DeadlineExceeded)
    assert isinstance(heard["patient"].ends[0], Done)
    assert clock() == pytest.approx(3.0 + 4.0)


@pytest.mark.parametrize("mark", [13.0, 666.0], ids=["raises", "NaN"])
def test_a_bad_request_fails_alone(mark: float) -> None:
    wanted = [request("a", seed=1), marked("bad", mark), request("b", seed=2, sampler=SamplerName.EULER_A)]
    own = engine()
    heard = submitted(own, *wanted)
    run(own)
    (end,) = heard["bad"].ends
    assert isinstance(end, Failed)
    assert isinstance(end.error, GenerationFailed)
    for each in (wanted[0], wanted[2]):
        assert torch.equal(heard[each.request_id].latents, alone(each))
    assert own.stats().num_failed == 1


def test_a_lone_bad_request_fails_and_the_engine_goes_on() -> None:
    own = engine()
    heard = submitted(own, marked("bad", 13.0))
    run(own)
    assert isinstance(heard["bad"].ends[0], Failed)
    assert torch.equal(alone(request()), rerun(own, request()))


def test_a_listener_that_raises_hurts_nobody() -> None:
    own, quiet = engine(), Listener()
    num_heard = 0

    def raises(event: DenoiseEvent) -> None:
        nonlocal num_heard
        num_heard += 1
        raise ValueError("nobody there")

    own.submit(request("loud"), raises)
    own.submit(request("quiet"), quiet)
    run(own)
    assert num_heard == 5
    assert isinstance(quiet.ends[0], Done)


def test_hand_back_returns_everything_and_refuses_what_comes() -> None:
    own = engine(max_rows=2)
    heard = submitted(
        own,
        request("running", num_inference_steps=5, sampler=SamplerName.LCM),
        request("waiting", num_inference_steps=9),
    )
    own.step()
    own.step()
    own.hand_back()
    with pytest.raises(ShuttingDown):
        own.submit(request("late"), Listener())
    assert own.step().num_ended == 2
    running, waiting = heard["running"].ends[0], heard["waiting"].ends[0]
    assert isinstance(running, HandedBack)
    assert running.snapshot is not None
    assert (running.snapshot.step, running.snapshot.latents.shape) == (2, SHAPE)
    assert running.snapshot.generator_state is not None
    assert waiting == HandedBack("waiting", None)
    assert not own.step()


def test_who_is_nearly_done_is_not_handed_back() -> None:
    clock = VirtualClock()
    own = engine(TinyUNet(CONTEXT_DIM, clock=clock, row_s=0.02), clock=clock, max_rows=2)
    heard = submitted(
        own, request("short", num_inference_steps=3), request("long", num_inference_steps=90), request("late")
    )
    own.step()
    own.hand_back(but_within_s=0.1)
    with pytest.raises(ShuttingDown):
        own.submit(request("new"), Listener())
    own.step()
    ends = {name: [type(end) for end in each.ends] for name, each in heard.items()}
    assert ends == {"short": [], "long": [HandedBack], "late": [HandedBack]}
    assert own.wait_for_work()
    run(own)
    assert isinstance(heard["short"].ends[0], Done)
    assert not own.wait_for_work()


def test_what_is_left_of_a_drain_is_handed_back() -> None:
    own = engine()
    heard = submitted(own, request("slow"))
    own.step()
    own.hand_back(but_within_s=60)
    own.step()
    own.hand_back()
    run(own)
    end = heard["slow"].ends[0]
    assert isinstance(end, HandedBack)
    assert end.snapshot is not None
    assert end.snapshot.step == 2


def test_a_request_that_moved_is_never_refused() -> None:
    own = engine(max_rows=2, max_queued_requests=1)
    heard = submitted(own, request("running"))
    own.step()
    heard |= submitted(own, request("queued"))
    with pytest.raises(QueueFull):
        own.submit(request("new"), Listener())
    with pytest.raises(DeadlineUnmeetable):
        own.submit(request("hurried", deadline_s=0.05), Listener())
    heard |= submitted(own, request("moved", moved=True), request("hurried", moved=True, deadline_s=60.0))
    run(own)
    assert all(isinstance(each.ends[0], Done) for each in heard.values())


def test_a_request_that_moved_is_tried_although_its_deadline_will_pass() -> None:
    clock = VirtualClock()
    own = engine(TinyUNet(CONTEXT_DIM, clock=clock, row_s=0.02), clock=clock, max_rows=2)
    heard = submitted(own, request("moved", moved=True, deadline_s=0.1))
    run(own)
    end = heard["moved"].ends[0]
    assert isinstance(end, Failed)
    assert isinstance(end.error, DeadlineExceeded)
    assert own.stats().num_steps == 3


def test_a_fault_of_the_engine_ends_everything_once() -> None:
    own = engine(max_rows=2)
    heard = submitted(own, request("a"), request("b"))
    own.step()
    own.fail_all(GenerationFailed("broken"))
    run(own)
    assert [type(each.ends[0]) for each in heard.values()] == [Failed, Failed]
    assert torch.equal(rerun(own, request()), alone(request()))


def test_stats_add_up() -> None:
    own = engine()
    submitted(own, request("a"), request("b", guidance_scale=1.0), marked("bad", 666.0))
    own.submit(request("c"), Listener())
    own.cancel("c")
    assert own.stats().work_s == pytest.approx((8 + 4 + 8 + 8) * 0.02)
    run(own)
    stats = own.stats()
    assert (stats.num_done, stats.num_failed, stats.num_cancelled, stats.num_handed_back) == (2, 1, 1, 0)
    assert (stats.num_steps, stats.num_row_steps) == (4, 5 + 3 + 3 + 3)
    assert stats.busy_s > 0
    assert (stats.num_running, stats.num_queued, stats.work_s, stats.num_rows) == (0, 0, 0, 0)
