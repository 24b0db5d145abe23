"""Promises by simulation: at a fixed cost, accepted deadlines are met whatever comes later."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual import GPU, KEY, TWO_CORES, Arrival, VirtualEngine, cost_of
from core.errors import DeadlineUnmeetable, LimnerError, QueueFull
from core.types import Priority
from deployments.engine.cost import CostModel
from deployments.engine.work import BatchKey, Work

TALL = BatchKey(4, 48, 32, 77, 192)
_ROUNDING_S = 1e-5


@dataclass(frozen=True)
class Scene:
    """Arrivals in order of time, the requests cancelled at the arrival of others, and an engine for them."""

    engine: VirtualEngine
    arrivals: list[Arrival]
    cancelled: dict[int, str]


def work(name: str, at: float, num_steps: int = 20, rows: int = 2, **changes: object) -> Work:
    values: dict[str, object] = {
        "request_id": name,
        "user_id": name,
        "key": KEY,
        "priority": Priority.INTERACTIVE,
        "rows": rows,
        "num_steps": num_steps,
        "row_steps": rows * num_steps,
        "row_ms": 16.0,
        "arrived_at": at,
    }
    return Work(**{**values, **changes})  # type: ignore[arg-type]


def any_cost(rng: random.Random) -> CostModel:
    """The two known curves, and curves on which batching gains anything or nothing."""
    curve = rng.choice([TWO_CORES, GPU, {1: 10.0}, None])
    if curve is None:
        ms, curve = 0.0, {}
        for rows in (1, 2, 4, 8, 16):
            ms += rng.uniform(1, 60)
            curve[rows] = ms
    return cost_of(curve)


def any_work(rng: random.Random, index: int, at: float) -> Work:
    num_steps, rows = rng.randint(1, 30), rng.choice((1, 2))
    # Guidance in a part of the steps: on average they cost less than the most that one does.
    average = rng.uniform(1, rows) if rows == 2 and rng.random() < 0.2 else rows
    return work(
        f"r{index}",
        at,
        num_steps,
        rows,
        user_id=f"m{rng.randrange(5)}",
        key=rng.choice((KEY, KEY, TALL)),
        priority=rng.choice((Priority.INTERACTIVE, Priority.INTERACTIVE, Priority.BACKGROUND)),
        row_steps=average * num_steps,
        adapters=frozenset(rng.sample("abcd", rng.choice((0, 0, 1, 2)))),
    )


def scene(seed: int, max_arrivals: int) -> Scene:
    """Deadlines from hopeless to lax; bursts, and adversaries who come just after a promise was made."""
    rng = random.Random(seed)
    engine = VirtualEngine(any_cost(rng), max_rows=rng.choice((2, 4, 16)), max_adapters=2)
    arrivals, cancelled, now = [], {}, 0.0
    busy = rng.choice((0.02, 0.2, 1.0))
    for index in range(rng.randint(2, max_arrivals)):
        now += 0.0 if rng.random() < 0.3 else rng.expovariate(1 / busy)
        each = any_work(rng, index, now)
        alone_s = each.num_steps * engine.cost.step_ms(each.key, each.peak_rows) / 1_000
        deadline_s = alone_s * rng.choice((0.9, 1.12, 1.2, 2.0, 5.0, 20.0)) if rng.random() < 0.6 else None
        arrivals.append(Arrival(each, deadline_s))
        if rng.random() < 0.1:
            cancelled[index] = f"r{rng.randrange(index + 1)}"
    return Scene(engine, arrivals, cancelled)


def play(each: Scene) -> int:
    """Serve a scene; returns how many promises were made."""
    engine = each.engine
    for index, arrival in enumerate(each.arrivals):
        engine.serve(arrival.work.arrived_at)
        engine.submit(arrival)
        if index in each.cancelled:
            engine.cancel(each.cancelled[index])
    engine.serve(float("inf"))
    num_promised = 0
    for outcome in engine.outcomes:
        if outcome.arrival.deadline_s is not None:
            num_promised += 1
            assert outcome.latency_s <= outcome.arrival.deadline_s + _ROUNDING_S, outcome
    return num_promised


@pytest.mark.parametrize(("num_scenes", "max_arrivals"), [(2_000, 12), (100, 40)])
def test_no_promise_is_broken_in_thousands_of_scenes(num_scenes: int, max_arrivals: int) -> None:
    num_promised = sum(play(scene(seed, max_arrivals)) for seed in range(num_scenes))
    assert num_promised > num_scenes


def test_a_promise_holds_against_a_flood_of_shorter_requests() -> None:
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=16)
    engine.submit(Arrival(work("promised", 0.0), deadline_s=2.0))
    for index in range(200):
        engine.serve(index * 0.01)
        engine.submit(Arrival(work(f"short{index}", index * 0.01, num_steps=1)))
    engine.serve(float("inf"))
    latency_s = {each.arrival.work.request_id: each.latency_s for each in engine.outcomes}
    assert latency_s["promised"] <= 2.0
    assert min(latency_s.values()) < latency_s["promised"]


def test_who_would_break_a_promise_is_refused() -> None:
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=2)
    assert engine.submit(Arrival(work("first", 0.0), deadline_s=1.1))
    assert not engine.submit(Arrival(work("second", 0.0, num_steps=5), deadline_s=1.1))
    ((_, error),) = engine.refusals
    assert isinstance(error, DeadlineUnmeetable)
    assert error.retry_after_s is not None
    assert engine.submit(Arrival(work("patient", 0.0)))


def test_a_deadline_is_no_way_past_those_who_came_before() -> None:
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=2)
    engine.submit(Arrival(work("first", 0.0)))
    assert not engine.submit(Arrival(work("pushy", 0.0), deadline_s=1.2))
    assert engine.submit(Arrival(work("modest", 0.0), deadline_s=2.1))


def test_promises_without_end_leave_a_part_of_the_device_to_the_others() -> None:
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=2)
    engine.submit(Arrival(work("p0", 0.0), deadline_s=1.1))
    engine.serve(0.1)
    engine.submit(Arrival(work("patient", 0.1)))
    num_promised, now = 0, 0.1
    while not any(each.arrival.work.request_id == "patient" for each in engine.outcomes):
        now += 0.1
        engine.serve(now)
        for steps in (20, 10, 5, 2):
            name = f"p{now:.1f}/{steps}"
            num_promised += engine.submit(Arrival(work(name, now, num_steps=steps), deadline_s=1.1))
        assert now < 30
    assert num_promised > 5


def retried(each: Scene, last: Arrival, wait: float) -> LimnerError | None:
    """What became of ``last``, which came last of all and again when it was told to, or a while after."""
    engine = each.engine
    for arrival in each.arrivals:
        engine.serve(arrival.work.arrived_at)
        engine.submit(arrival)
    engine.serve(last.work.arrived_at)
    if engine.submit(last):
        return None
    error = engine.refusals[-1][1]
    if error.retry_after_s is None:
        return error
    last.work.arrived_at += error.retry_after_s + wait
    engine.serve(last.work.arrived_at)
    assert engine.submit(last), error
    engine.serve(float("inf"))
    assert engine.outcomes
    return error


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(1.12, 4.0), st.floats(0.0, 2.0))
def test_who_comes_back_when_told_is_taken(seed: int, patience: float, later_s: float) -> None:
    each = scene(seed, max_arrivals=16)
    at = each.arrivals[-1].work.arrived_at + later_s
    last = work("last", at, key=TALL if seed % 3 else KEY)
    alone_s = 20 * each.engine.cost.step_ms(last.key, 2) / 1_000
    retried(each, Arrival(last, alone_s * patience), wait=0.0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_full_queue_says_when_there_is_room(seed: int, max_queued_requests: int) -> None:
    each = scene(seed, max_arrivals=16)
    engine = VirtualEngine(
        each.engine.cost, max_rows=2, max_adapters=2, max_queued_requests=max_queued_requests
    )
    full = Scene(engine, each.arrivals, {})
    error = retried(full, Arrival(work("last", each.arrivals[-1].work.arrived_at)), wait=0.0)
    assert error is None or isinstance(error, QueueFull)


def test_nobody_is_told_to_come_back_for_what_an_idle_engine_cannot_do() -> None:
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=4)
    engine.submit(Arrival(work("busy", 0.0)))
    error = retried(Scene(engine, [], {}), Arrival(work("hopeless", 0.0), deadline_s=0.5), wait=0.0)
    assert isinstance(error, DeadlineUnmeetable)
    assert error.retry_after_s is None
