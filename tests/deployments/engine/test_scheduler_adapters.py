"""The policy with room for few adapters: nobody starves, and no step needs more than there is room for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.types import Priority
from deployments.engine.cost import CostModel
from deployments.engine.scheduler import Scheduler
from deployments.engine.work import BatchKey, Work
from tests.fakes import VirtualClock

SQUARE, TALL = BatchKey(4, 32, 32, 77, 192), BatchKey(4, 48, 32, 77, 192)


def work(
    request_id: str,
    adapters: str = "",
    *,
    num_steps: int = 10,
    rows: int = 2,
    key: BatchKey = SQUARE,
    priority: Priority = Priority.INTERACTIVE,
    at: float = 0.0,
) -> Work:
    """``adapters`` are named by one letter each."""
    return Work(
        request_id=request_id,
        user_id=request_id,
        key=key,
        priority=priority,
        rows=rows,
        num_steps=num_steps,
        row_steps=rows * num_steps,
        row_ms=10.0,
        arrived_at=at,
        adapters=frozenset(adapters),
    )


def step(scheduler: Scheduler, clock: VirtualClock) -> list[str]:
    batch = scheduler.next_batch(clock())
    clock.advance(sum(each.rows for each in batch) * 0.01)
    for each in batch:
        each.advance(1, each.rows)
        if each.num_steps == 0:
            scheduler.remove(each.request_id)
    return [each.request_id for each in batch]


def test_those_of_highest_rank_go_on_and_others_wait_their_turn() -> None:
    scheduler, clock = Scheduler(CostModel(), max_rows=16, max_adapters=2), VirtualClock()
    for index, adapters in enumerate(("a", "b", "c", "", "ab")):
        scheduler.add(work(f"r{index}", adapters, num_steps=3 + index, at=0.001 * index))
    assert [step(scheduler, clock) for _ in range(3)] == [["r0", "r1", "r3", "r4"]] * 3
    assert "r2" not in step(scheduler, clock)
    finished: list[str] = []
    while len(scheduler):
        finished += step(scheduler, clock)
    assert finished.count("r2") == 5


def test_many_with_one_adapter_do_not_starve_one_with_four() -> None:
    scheduler, clock = Scheduler(CostModel(), max_rows=16, max_adapters=4), VirtualClock()
    for index in range(3):
        scheduler.add(work(f"early{index}", "xyz"[index], num_steps=2 + index, rows=1))
    step(scheduler, clock)
    scheduler.add(work("stack", "abcd", num_steps=2, at=clock()))
    waited = 0
    while "stack" not in step(scheduler, clock):
        waited += 1
        scheduler.add(work(f"late{waited}", "klmnop"[waited % 6], num_steps=5, rows=1, at=clock()))
        assert waited < 10
    assert waited <= 4


def test_forecasts_play_by_the_same_rule() -> None:
    scheduler = Scheduler(CostModel(), max_rows=16, max_adapters=1)
    scheduler.add(work("first", "a"))
    scheduler.add(work("second", "b", at=0.1))
    twin = scheduler.copy()
    assert [each.request_id for each in twin.next_batch(0.2)] == ["first"]
    assert twin.num_queued == 1


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, Work]]:
    found = []
    for index in range(draw(st.integers(1, 12))):
        at = draw(st.integers(0, 20))
        each = work(
            f"r{index}",
            "".join(draw(st.sets(st.sampled_from("abcdef"), max_size=3))),
            num_steps=draw(st.integers(1, 6)),
            rows=draw(st.integers(1, 2)),
            key=draw(st.sampled_from([SQUARE, TALL])),
            priority=draw(st.sampled_from(Priority)),
        )
        found.append((at, each))
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(arrivals(), st.integers(2, 6), st.integers(3, 4))
def test_every_step_keeps_to_the_room_and_everyone_finishes(
    coming: list[tuple[int, Work]], max_rows: int, max_adapters: int
) -> None:
    scheduler, clock = Scheduler(CostModel(), max_rows, max_adapters), VirtualClock()
    num_left = sum(each.num_steps for _, each in coming)
    for now in range(20 + num_left + 1):
        for at, each in coming:
            if at == now:
                each.arrived_at = clock()
                scheduler.add(each)
        batch = scheduler.next_batch(clock())
        assert bool(batch) == bool(len(scheduler))
        assert len(frozenset().union(*(each.adapters for each in batch))) <= max_adapters
        assert sum(each.rows for each in batch) <= max_rows
        clock.advance(0.1)
        for each in batch:
            each.advance(1, each.rows)
            if each.num_steps == 0:
                scheduler.remove(each.request_id)
    assert len(scheduler) == 0
