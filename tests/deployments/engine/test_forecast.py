"""Forecasts, against what then happens under a virtual clock."""

from __future__ import annotations

import pytest

from benchmarks.virtual import GPU, KEY, TWO_CORES, Arrival, VirtualEngine, cost_of
from core.types import Priority
from deployments.engine.cost import CostModel
from deployments.engine.forecast import StepInFlight, forecast
from deployments.engine.scheduler import Scheduler
from deployments.engine.work import BatchKey, Work

TALL = BatchKey(4, 48, 32, 77, 192)


def work(request_id: str, num_steps: int, *, rows: int = 2, at: float = 0.0, key: BatchKey = KEY) -> Work:
    return Work(
        request_id, request_id, key, Priority.INTERACTIVE, rows, num_steps, rows * num_steps, 17.0, at
    )


def test_a_lone_request_takes_its_steps() -> None:
    scheduler = Scheduler(cost_of(TWO_CORES), max_rows=8)
    scheduler.add(work("a", 20))
    assert forecast(scheduler, now=5.0).finish_at == {"a": pytest.approx(5 + 20 * 0.045)}


@pytest.mark.parametrize("curve", [TWO_CORES, GPU], ids=["cores", "GPU"])
def test_a_forecast_equals_what_happens_step_by_step(curve: dict[int, float]) -> None:
    cost = cost_of(curve)
    scheduler = Scheduler(cost, max_rows=16)
    for index in range(40):
        key, num_steps = (KEY, TALL)[index % 3 == 2], (10, 3, 7, 12, 5)[index % 5]
        scheduler.add(work(f"r{index}", num_steps, rows=1 + index % 2, at=0.001 * index, key=key))
    expected = forecast(scheduler, now=0.0).finish_at
    now, finished = 0.0, {}
    while batch := scheduler.next_batch(now):
        now += cost.step_ms(batch[0].key, sum(each.rows for each in batch)) / 1_000
        for each in batch:
            each.advance(1, each.rows)
            if each.num_steps == 0:
                finished[each.request_id] = now
                scheduler.remove(each.request_id)
    assert expected == pytest.approx(finished)


def test_the_step_under_way_counts_for_those_in_it_alone() -> None:
    scheduler = Scheduler(cost_of(TWO_CORES), max_rows=2)
    scheduler.add(work("a", 2))
    batch = scheduler.next_batch(0.0)
    in_flight = StepInFlight([each.request_id for each in batch], ends_at=0.045)
    scheduler.add(work("b", 1, at=0.03))
    expected = {"a": pytest.approx(0.090), "b": pytest.approx(0.135)}
    assert forecast(scheduler, now=0.03, in_flight=in_flight).finish_at == expected


def test_those_who_are_expected_take_their_part() -> None:
    scheduler = Scheduler(cost_of(GPU), max_rows=8)
    scheduler.add(work("a", 20))
    alone = forecast(scheduler, now=0.0).finish_at
    coming = [work("~", 20, rows=2, at=0.1), work("~~", 20, rows=2, at=0.2)]
    among = forecast(scheduler, now=0.0, arrivals=coming).finish_at
    assert among.keys() == {"a"}
    assert among["a"] > alone["a"]


def test_a_forecast_leaves_the_scheduler_alone() -> None:
    scheduler = Scheduler(CostModel(), max_rows=2)
    scheduler.add(work("a", 10))
    forecast(scheduler, now=0.0)
    assert [(each.num_steps, each.tag) for each in scheduler] == [(10, None)]


def test_what_is_told_comes_true_when_nobody_else_comes() -> None:
    engine = VirtualEngine(cost_of(TWO_CORES), max_rows=8)
    for index in range(4):
        engine.serve(0.1 * index)
        engine.submit(Arrival(work(f"r{index}", 20, at=0.1 * index)))
    engine.serve(float("inf"))
    last = max(engine.outcomes, key=lambda each: each.arrival.work.arrived_at)
    assert last.predicted_s == pytest.approx(last.latency_s)
