"""Whatever the mix and the order: every request equals itself alone and ends exactly once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from core.errors import GenerationFailed, QueueFull, ShuttingDown
from core.types import Priority, SamplerName
from deployments.engine.acceleration import PLAIN, Acceleration
from deployments.engine.request import Cancelled, DenoiseRequest, Progressed, TerminalEvent, noise_for
from tests.deployments.engine.scenes import Listener, alone, engine, psnr_db, request, run, small_unet
from tests.fakes import TinyUNet, VirtualClock

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

UNET = small_unet()


@st.composite
def requests(draw: st.DrawFn, index: int) -> DenoiseRequest:
    num_steps = draw(st.integers(1, 6))
    shape = draw(st.sampled_from([(4, 8, 8), (4, 8, 16)]))
    changes: dict[str, Any] = {
        "sampler": draw(st.sampled_from(SamplerName)),
        "num_inference_steps": num_steps,
        "guidance_scale": draw(st.sampled_from([0.0, 1.0, 1.5, 7.5])),
        "guidance_interval": draw(st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.3, 0.8)])),
        "user_id": draw(st.sampled_from(["", "a", "b"])),
        "priority": draw(st.sampled_from(Priority)),
        "noise": noise_for(index, shape),
    }
    if draw(st.booleans()):
        changes |= {
            "source": noise_for(100 + index, shape),
            "start_step": draw(st.integers(0, num_steps - 1)),
        }
        if draw(st.booleans()):
            mask = noise_for(200 + index, (1, *shape[1:])) > 0
            changes["mask"] = mask.float()
    return request(f"r{index}", seed=index, **changes)


mixes = st.integers(1, 5).flatmap(
    lambda count: st.tuples(*[st.tuples(requests(index), st.integers(0, 5)) for index in range(count)])
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(mixes, st.integers(2, 7))
def test_every_request_equals_itself_alone(mix: Any, max_rows: int) -> None:
    shared = engine(UNET, max_rows=max_rows)
    listeners = {each.request_id: Listener() for each, _ in mix}
    for step in range(6):
        for each, arrives_at in mix:
            if arrives_at == step:
                shared.submit(each, listeners[each.request_id])
        shared.step()
    run(shared)
    for each, _ in mix:
        heard = listeners[each.request_id]
        assert len(heard.ends) == 1
        expected = alone(each, UNET)
        close = torch.allclose(heard.latents, expected, rtol=0, atol=1e-3)
        assert close or psnr_db(heard.latents, expected) >= 45


class Lives(RuleBasedStateMachine):
    """Every order of submit, step, cancel, time, faults and hand-back."""

    submitted = Bundle("submitted")
    acceleration = PLAIN

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        unet = TinyUNet(clock=self.clock, row_s=0.01)
        self.engine = engine(
            unet, clock=self.clock, max_rows=4, max_queued_requests=3, acceleration=self.acceleration
        )
        self.heard: dict[str, Listener] = {}
        self.promised: set[str] = set()
        self.handed_back = False

    @rule(
        target=submitted,
        mark=st.sampled_from([0.0, 0.0, 13.0, 666.0]),
        num_steps=st.integers(1, 5),
        tall=st.booleans(),
        deadline_s=st.sampled_from([None, None, 100.0]),
        background=st.booleans(),
    )
    def submit(
        self, mark: float, num_steps: int, tall: bool, deadline_s: float | None, background: bool
    ) -> str:
        request_id, listener = f"r{len(self.heard)}", Listener()
        embeds = torch.zeros(5, 8)
        embeds[0, 0] = mark
        wanted = request(
            request_id,
            prompt_embeds=embeds,
            num_inference_steps=num_steps,
            noise=noise_for(0, (4, 16, 8) if tall else (4, 8, 8)),
            deadline_s=deadline_s,
            priority=Priority.BACKGROUND if background else Priority.INTERACTIVE,
        )
        try:
            self.engine.submit(wanted, listener)
        except QueueFull:
            assert self.engine.num_queued == 3
        except ShuttingDown:
            assert self.handed_back
        else:
            self.heard[request_id] = listener
        return request_id

    @rule()
    def step(self) -> None:
        self.engine.step()

    @rule(request_id=submitted)
    def cancel(self, request_id: str) -> None:
        if self.engine.cancel(request_id):
            assert not self.heard[request_id].ends
            self.promised.add(request_id)

    @rule(seconds=st.sampled_from([0.1, 99.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def break_down(self) -> None:
        self.engine.fail_all(GenerationFailed("broken"))

    @rule(but_within_s=st.sampled_from([0.0, 0.05]))
    def hand_back(self, but_within_s: float) -> None:
        self.engine.hand_back(but_within_s)
        self.handed_back = True

    @invariant()
    def at_most_one_end_and_nothing_after_it(self) -> None:
        for heard in self.heard.values():
            assert len(heard.ends) <= 1
            assert not any(isinstance(event, TerminalEvent) for event in heard.events[:-1])
            steps = [event.step for event in heard.events if isinstance(event, Progressed)]
            assert steps == list(range(1, len(steps) + 1))

    def teardown(self) -> None:
        run(self.engine)
        self.at_most_one_end_and_nothing_after_it()
        for request_id, heard in self.heard.items():
            assert len(heard.ends) == 1
            if request_id in self.promised:
                assert heard.ends == [Cancelled(request_id)]
        assert (self.engine.num_running, self.engine.num_queued) == (0, 0)


class LivesAhead(Lives):
    """The same on a device that is given a step while it computes the one before."""

    acceleration = Acceleration(ahead_below_ms=math.inf)


TestLives, TestLivesAhead = Lives.TestCase, LivesAhead.TestCase
for each in (TestLives, TestLivesAhead):
    each.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
