"""The engine in a thread of its own, with callers in others."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from core.errors import GenerationFailed, QueueFull, ShuttingDown
from deployments.engine.engine import Engine
from deployments.engine.report import StepReport
from deployments.engine.request import Cancelled, DenoiseEvent, Done, Failed, HandedBack, TerminalEvent
from deployments.engine.thread import EngineThread
from tests.deployments.engine.scenes import CONTEXT_DIM, Listener, engine, request
from tests.fakes import TinyUNet

LONG_S = 60.0


class Waiting(Listener):
    """A listener that others can wait for."""

    def __init__(self, at_step: Callable[[DenoiseEvent], bool] = lambda event: False) -> None:
        super().__init__()
        self._at_step = at_step
        self.ended, self.reached = threading.Event(), threading.Event()

    def __call__(self, event: DenoiseEvent) -> None:
        super().__call__(event)
        if self._at_step(event):
            self.reached.set()
        if isinstance(event, TerminalEvent):
            self.ended.set()


def test_steps_while_there_is_work_and_stops_on_demand() -> None:
    own, heard = engine(), Waiting()
    thread = EngineThread(own)
    thread.start()
    for _ in range(2):
        own.submit(request(), heard)
        assert heard.ended.wait(LONG_S)
        heard.ended.clear()
    assert [type(end) for end in heard.ends] == [Done, Done]
    assert thread.is_alive
    assert thread.stop(LONG_S)
    assert not thread.is_alive


def test_stopping_hands_back_what_is_left() -> None:
    own, heard = engine(), Waiting(lambda event: True)
    thread = EngineThread(own)
    thread.start()
    own.submit(request(num_inference_steps=900), heard)
    assert heard.reached.wait(LONG_S)
    assert thread.stop(LONG_S)
    (end,) = heard.ends
    assert isinstance(end, HandedBack)
    assert end.snapshot is not None
    with pytest.raises(ShuttingDown):
        own.submit(request(), Listener())


def test_stop_says_so_when_a_step_does_not_end() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Stuck(TinyUNet):
        def forward(self, *inputs: object, **options: object) -> object:  # type: ignore[override]
            entered.set()
            leave.wait(LONG_S)
            return super().forward(*inputs, **options)  # type: ignore[arg-type]

    own, heard = engine(Stuck(CONTEXT_DIM)), Waiting()
    thread = EngineThread(own)
    thread.start()
    own.submit(request(), heard)
    assert entered.wait(LONG_S)
    assert not thread.stop(timeout_s=0.0)
    leave.set()
    assert thread.stop(LONG_S)
    assert isinstance(heard.ends[0], HandedBack)


def test_a_fault_of_the_engine_fails_its_requests_and_the_thread_goes_on() -> None:
    class Faulty(Engine):
        broken = True

        def step(self) -> StepReport:
            if self.broken:
                self.broken = False
                raise RuntimeError("a defect")
            return super().step()

    own = engine(kind=Faulty)
    thread = EngineThread(own)
    first, second = Waiting(), Waiting()
    own.submit(request("first"), first)
    thread.start()
    assert first.ended.wait(LONG_S)
    own.submit(request("second"), second)
    assert second.ended.wait(LONG_S)
    assert thread.stop(LONG_S)
    assert isinstance(first.ends[0], Failed)
    assert isinstance(first.ends[0].error, GenerationFailed)
    assert isinstance(second.ends[0], Done)


@pytest.mark.parametrize("seed", range(3))
def test_every_accepted_request_ends_once_whoever_calls_when(seed: int) -> None:
    own = engine(max_rows=6, max_queued_requests=8)
    thread = EngineThread(own)
    accepted: dict[str, Waiting] = {}
    promised: set[str] = set()
    start = threading.Barrier(4)

    def caller(name: str) -> None:
        chance = random.Random(f"{name}{seed}")
        start.wait(LONG_S)
        for index in range(30):
            request_id, heard = f"{name}{index}", Waiting()
            try:
                own.submit(request(request_id, num_inference_steps=chance.randint(1, 4)), heard)
            except (QueueFull, ShuttingDown):
                continue
            accepted[request_id] = heard
            if chance.random() < 0.3:
                heard.ended.wait(LONG_S)
            if chance.random() < 0.5 and own.cancel(request_id):
                promised.add(request_id)
            if name == "c" and index == 25:
                own.hand_back()

    callers = [threading.Thread(target=caller, args=(name,)) for name in "abc"]
    for each in callers:
        each.start()
    thread.start()
    start.wait(LONG_S)
    for each in callers:
        each.join(LONG_S)
    assert thread.stop(LONG_S)
    assert accepted
    for request_id, heard in accepted.items():
        assert len(heard.ends) == 1, request_id
        assert heard.events[-1] is heard.ends[0]
        assert (heard.ends[0] == Cancelled(request_id)) == (request_id in promised)
