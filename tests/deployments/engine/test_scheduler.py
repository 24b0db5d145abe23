"""The policy alone: orders of service under a virtual clock, without torch."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from core.types import Priority
from deployments.engine.cost import CostModel
from deployments.engine.scheduler import PROMOTION_S, Scheduler
from deployments.engine.work import BatchKey, Work
from tests.fakes import VirtualClock

SQUARE, TALL = BatchKey(4, 32, 32, 77, 192), BatchKey(4, 48, 32, 77, 192)


def work(
    request_id: str,
    *,
    user: str = "",
    key: BatchKey = SQUARE,
    num_steps: int = 10,
    rows: int = 2,
    priority: Priority = Priority.INTERACTIVE,
    at: float = 0.0,
) -> Work:
    return Work(
        request_id=request_id,
        user_id=user or request_id,
        key=key,
        priority=priority,
        rows=rows,
        num_steps=num_steps,
        row_steps=rows * num_steps,
        row_ms=10.0,
        arrived_at=at,
    )


def scheduler_with(*works: Work, max_rows: int = 4) -> Scheduler:
    scheduler = Scheduler(CostModel(), max_rows)
    for each in works:
        scheduler.add(each)
    return scheduler


def ids(batch: list[Work]) -> list[str]:
    return [each.request_id for each in batch]


def step(scheduler: Scheduler, clock: VirtualClock) -> list[str]:
    """One step that takes 10 ms a row; what is finished leaves."""
    batch = scheduler.next_batch(clock())
    clock.advance(sum(each.rows for each in batch) * 0.01)
    for each in batch:
        each.advance(1, each.rows)
        if each.num_steps == 0:
            scheduler.remove(each.request_id)
    return ids(batch)


def finish_order(scheduler: Scheduler, clock: VirtualClock) -> list[str]:
    finished: list[str] = []
    while len(scheduler):
        before = {each.request_id for each in scheduler}
        step(scheduler, clock)
        finished += sorted(before - {each.request_id for each in scheduler})
    return finished


def test_policy_needs_no_torch() -> None:
    program = "import sys, deployments.engine.timetable; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_rows_bound_the_batch() -> None:
    scheduler = scheduler_with(work("a"), work("b"), work("c"), max_rows=4)
    assert ids(scheduler.next_batch(0.0)) == ["a", "b"]
    assert (scheduler.num_running, scheduler.num_queued) == (2, 1)


def test_a_guided_request_is_not_starved_by_unguided_ones_that_fit() -> None:
    scheduler = scheduler_with(work("running", rows=1, num_steps=5), max_rows=2)
    scheduler.next_batch(0.0)
    scheduler.add(work("guided", rows=2, num_steps=1, at=0.1))
    scheduler.add(work("small", rows=1, num_steps=100, at=0.2))
    assert ids(scheduler.next_batch(0.2)) == ["running"]


def test_free_rows_are_refilled_at_the_next_step() -> None:
    clock = VirtualClock()
    scheduler = scheduler_with(work("a", num_steps=1), work("b", num_steps=3), work("c"), max_rows=4)
    assert step(scheduler, clock) == ["a", "b"]
    assert step(scheduler, clock) == ["b", "c"]


def test_users_share_however_much_one_of_them_asks_for() -> None:
    clock = VirtualClock()
    greedy = [work(f"g{i}", user="greedy", at=0.001 * i) for i in range(8)]
    modest = [work(f"m{i}", user="modest", at=0.01 + 0.001 * i) for i in range(2)]
    scheduler = scheduler_with(*greedy, *modest, max_rows=2)
    order = finish_order(scheduler, clock)
    assert {"m0", "m1"} <= set(order[:4])


def test_a_user_who_was_away_has_no_claim_on_the_past() -> None:
    clock = VirtualClock()
    scheduler = scheduler_with(*[work(f"r{i}", user="regular") for i in range(5)], max_rows=2)
    finish_order(scheduler, clock)
    scheduler.add(work("r5", user="regular", at=clock()))
    for i in range(4):
        scheduler.add(work(f"n{i}", user="new", at=clock()))
    order = finish_order(scheduler, clock)
    assert order.index("r5") <= 2


def test_a_users_shortest_request_goes_first() -> None:
    long, short = work("long", user="u", num_steps=50), work("short", user="u", num_steps=4)
    assert finish_order(scheduler_with(long, short, max_rows=2), VirtualClock()) == ["short", "long"]


def test_a_long_request_is_not_overtaken_for_ever() -> None:
    clock = VirtualClock()
    scheduler = scheduler_with(work("busy", user="u", num_steps=4), max_rows=2)
    step(scheduler, clock)
    scheduler.add(work("long", user="u", num_steps=50, at=clock()))
    for i in range(1_000):
        scheduler.add(work(f"short{i}", user="u", num_steps=4, at=clock()))
        if "long" in {name for _ in range(4) for name in step(scheduler, clock)}:
            return
    raise AssertionError("the long request never ran")


def test_interactive_work_goes_before_background_work() -> None:
    scheduler = scheduler_with(
        work("job", priority=Priority.BACKGROUND), work("somebody waits", at=1.0), max_rows=2
    )
    assert ids(scheduler.next_batch(1.0)) == ["somebody waits"]


def test_running_background_work_is_parked_for_interactive_work_and_goes_on_after_it() -> None:
    clock = VirtualClock()
    scheduler = scheduler_with(work("job", priority=Priority.BACKGROUND, num_steps=3), max_rows=2)
    assert step(scheduler, clock) == ["job"]
    scheduler.add(work("urgent", num_steps=2, at=clock()))
    assert [step(scheduler, clock) for _ in range(4)] == [["urgent"], ["urgent"], ["job"], ["job"]]


def test_background_work_is_promoted_in_the_end() -> None:
    job = work("job", priority=Priority.BACKGROUND, num_steps=1)
    scheduler = scheduler_with(job, work("new", at=PROMOTION_S + 1, num_steps=50), max_rows=2)
    assert ids(scheduler.next_batch(PROMOTION_S + 1)) == ["job"]


def test_different_keys_never_share_a_step_and_none_starves() -> None:
    clock = VirtualClock()
    scheduler = scheduler_with(work("tall", key=TALL, num_steps=20))
    num_steps_until_done = 0
    while "tall" in {each.request_id for each in scheduler}:
        scheduler.add(work(f"square{num_steps_until_done}", num_steps=2, at=clock()))
        batch = scheduler.next_batch(clock())
        assert len({each.key for each in batch}) == 1
        step(scheduler, clock)
        num_steps_until_done += 1
        assert num_steps_until_done < 500


def test_leaving_early_gives_back_what_was_not_used() -> None:
    scheduler = scheduler_with(work("cancelled", user="u", num_steps=100), max_rows=2)
    scheduler.next_batch(0.0)
    scheduler.add(work("other", user="v"))
    scheduler.remove("cancelled")
    scheduler.add(work("again", user="u", num_steps=1))
    assert ids(scheduler.next_batch(0.0)) == ["again"]


def test_a_copy_lives_its_own_life() -> None:
    scheduler = scheduler_with(work("a"), work("b"), max_rows=2)
    finish_order(scheduler.copy(), VirtualClock())
    assert (len(scheduler), scheduler.num_queued) == (2, 2)
    assert all(each.num_steps == 10 for each in scheduler)


works = st.builds(
    lambda index, user, tall, num_steps, rows, background: (index, user, tall, num_steps, rows, background),
    st.integers(0, 999),
    st.sampled_from("abc"),
    st.booleans(),
    st.integers(1, 6),
    st.integers(1, 2),
    st.booleans(),
)


@given(
    st.lists(works, max_size=20, unique_by=lambda each: each[0]),
    st.integers(2, 7),
    st.lists(st.integers(0, 3)),
)
def test_any_mix_is_served_completely_and_within_its_rows(
    mix: list[tuple[int, str, bool, int, int, bool]], max_rows: int, arrivals: list[int]
) -> None:
    clock, scheduler = VirtualClock(), Scheduler(CostModel(), max_rows)
    waiting, bursts = list(mix), list(arrivals)
    num_steps = 0
    while waiting or len(scheduler):
        for _ in range(bursts.pop() if bursts else len(waiting)):
            if waiting:
                index, user, tall, steps, rows, background = waiting.pop()
                priority = Priority.BACKGROUND if background else Priority.INTERACTIVE
                key = TALL if tall else SQUARE
                scheduler.add(
                    work(
                        f"{index}",
                        user=user,
                        key=key,
                        num_steps=steps,
                        rows=rows,
                        priority=priority,
                        at=clock(),
                    )
                )
        batch = scheduler.next_batch(clock())
        assert bool(batch) == bool(len(scheduler))
        assert sum(each.rows for each in batch) <= max_rows
        assert len({each.key for each in batch}) <= 1
        step(scheduler, clock)
        num_steps += 1
        assert num_steps <= sum(each[3] for each in mix) + len(arrivals) + 1
