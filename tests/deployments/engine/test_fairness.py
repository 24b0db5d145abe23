"""Shares of members, keys and classes under the whole policy, and that nobody starves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual import GPU, KEY, TWO_CORES, Arrival, VirtualEngine, cost_of
from core.types import Priority
from deployments.engine.fairness import ROUND_MS, KeyRounds, MemberShares
from deployments.engine.scheduler import Scheduler
from deployments.engine.work import BatchKey, Work

TALL, LARGE = BatchKey(4, 48, 32, 77, 192), BatchKey(4, 64, 64, 77, 192)


def work(
    name: str,
    *,
    member: str = "",
    key: BatchKey = KEY,
    num_steps: int = 20,
    rows: int = 2,
    priority: Priority = Priority.INTERACTIVE,
    at: float = 0.0,
    adapters: str = "",
) -> Work:
    return Work(
        name,
        member or name,
        key,
        priority,
        rows,
        num_steps,
        rows * num_steps,
        16.0,
        at,
        frozenset(adapters),
    )


def latencies(engine: VirtualEngine) -> dict[str, float]:
    return {each.arrival.work.request_id: each.latency_s for each in engine.outcomes}


def test_one_request_beside_a_member_with_a_thousand() -> None:
    engine = VirtualEngine(cost_of(GPU), max_rows=16)
    for index in range(1_000):
        engine.submit(Arrival(work(f"g{index}", member="greedy")))
    engine.serve(1.0)
    engine.submit(Arrival(work("single", at=1.0)))
    engine.serve(60.0)
    alone_s = 20 * engine.cost.step_ms(KEY, 2) / 1_000
    full_s = 20 * engine.cost.step_ms(KEY, 16) / 1_000
    # It waits for rows until some of the greedy member's running pictures are done, and for no more.
    assert alone_s <= latencies(engine)["single"] <= 2 * full_s + alone_s


def test_members_get_equal_device_time_however_much_they_ask_for() -> None:
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=16)
    for index in range(60):
        for member, num_requests, num_steps in (("one", 1, 30), ("two", 2, 8), ("many", 4, 20)):
            for copy in range(num_requests):
                name = f"{member}{index}.{copy}"
                engine.submit(Arrival(work(name, member=member, num_steps=num_steps)))
    engine.serve(30.0)
    done: Counter[str] = Counter()
    for each in engine.outcomes:
        done[each.arrival.work.user_id] += each.arrival.work.rows * 20
    steps = {"one": 30, "two": 8, "many": 20}
    device_time = [done[member] / 20 * steps[member] for member in steps]
    assert max(device_time) < 1.25 * min(device_time)


def test_keys_share_the_device_in_proportion_to_their_members() -> None:
    cost = cost_of(TWO_CORES)
    scheduler = Scheduler(cost, max_rows=16)
    for index in range(30):
        scheduler.add(work(f"a{index}", member=f"m{index % 3}", num_steps=10_000))
        scheduler.add(work(f"b{index}", member="other", key=TALL, num_steps=10_000))
    ms: Counter[BatchKey] = Counter()
    switches, last, now = 0, KEY, 0.0
    while now < 60.0:
        run = scheduler.next_run(now, until=now)
        assert run is not None
        key = run.batch[0].key
        ms[key] += round(run.step_ms)
        switches += key != last
        last, now = key, now + run.step_ms / 1_000
        for each in run.batch:
            each.advance(1, each.rows)
    assert ms[KEY] / ms[TALL] == pytest.approx(3, rel=0.1)
    assert switches <= 2 * 60_000 / ROUND_MS + 1


def test_a_key_keeps_its_turn_while_it_has_credit_and_pays_back_what_it_overdrew() -> None:
    rounds, turns = KeyRounds(), []
    shares = {KEY: 0.5, TALL: 0.25, LARGE: 0.25}
    for _ in range(400):
        key = rounds.turn(shares)
        turns.append(key)
        rounds.charge(key, 90.0)
    counts = Counter(turns)
    assert turns[:6] == [KEY] * 6
    assert counts[KEY] == pytest.approx(200, abs=6)
    assert counts[TALL] == pytest.approx(counts[LARGE], abs=3)


def test_a_key_that_left_has_neither_credit_nor_debt() -> None:
    rounds = KeyRounds()
    assert rounds.turn({KEY: 0.5, TALL: 0.5}) == KEY
    rounds.charge(KEY, 10_000.0)
    assert rounds.turn({TALL: 1.0}) == TALL
    assert rounds.turn({TALL: 0.5, KEY: 0.5}) == TALL
    rounds.charge(TALL, ROUND_MS)
    assert rounds.turn({TALL: 0.5, KEY: 0.5}) == KEY


def test_background_work_takes_the_rows_that_nobody_needs_and_parks_for_others() -> None:
    engine = VirtualEngine(cost_of(GPU), max_rows=8)
    for index in range(40):
        engine.submit(Arrival(work(f"job{index}", member="jobs", priority=Priority.BACKGROUND)))
    engine.serve(0.5)
    for index in range(4):
        engine.submit(Arrival(work(f"r{index}", at=0.5)))
    engine.serve(float("inf"))
    got = latencies(engine)
    assert len(got) == 44
    full_s = 20 * engine.cost.step_ms(KEY, 8) / 1_000
    assert max(got[f"r{index}"] for index in range(4)) <= full_s + 0.05


@st.composite
def victims(draw: st.DrawFn) -> Work:
    return work(
        "victim",
        member=draw(st.sampled_from(["m0", "victim"])),
        key=draw(st.sampled_from([KEY, TALL])),
        num_steps=draw(st.integers(1, 30)),
        rows=draw(st.integers(1, 2)),
        priority=draw(st.sampled_from(Priority)),
        at=1.0,
        adapters=draw(st.sampled_from(["", "a", "abc"])),
    )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(victims(), st.integers(0, 1_000), st.sampled_from([2, 4, 16]), st.booleans())
def test_nobody_starves_under_more_load_than_can_be_served(
    victim: Work, seed: int, max_rows: int, deadlines: bool
) -> None:
    """Twice the load that can be served, for ever: shorter requests, other keys, other adapters, promises."""
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=max_rows, max_adapters=3, max_queued_requests=12)
    now, index = 0.0, seed
    while victim.num_steps:
        index += 1
        now += 0.1
        flood = work(
            f"f{index}",
            member=f"m{index % 7}",
            key=(KEY, TALL, KEY)[index % 3],
            num_steps=3 + index % 5,
            rows=1 + index % 2,
            at=now,
            adapters="abcdef"[index % 6],
        )
        engine.submit(Arrival(flood, 2.0 if deadlines and index % 2 else None))
        if not engine.has(victim.request_id):
            victim.arrived_at = now
            engine.submit(Arrival(victim))
        engine.serve(now + 0.1)
        assert now < 240.0


def test_members_who_come_once_are_forgotten_but_for_the_furthest_ahead() -> None:
    members = MemberShares()
    for index in range(10_000):
        asked = work(f"r{index}", member=f"m{index}")
        members.welcome(asked.user_id, {asked.user_id})
        members.start(asked)
        members.observe([asked])
        if index == 5_000:
            members.served_ms["greedy"] = members.virtual_ms + 10_000.0
    assert len(members.served_ms) <= 2_100
    assert members.served_ms["greedy"] == members.virtual_ms + 10_000.0
