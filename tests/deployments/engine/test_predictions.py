"""Predicted finishes under mixed load in virtual time, and what they are made of."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from benchmarks.virtual import GPU, KEY, TWO_CORES, VirtualEngine, cost_of, mixed_load
from core.types import Priority
from deployments.engine.accuracy import Accuracy
from deployments.engine.arrivals import Arrivals
from deployments.engine.work import Work


def work(
    request_id: str, *, at: float, priority: Priority = Priority.INTERACTIVE, num_steps: int = 20
) -> Work:
    return Work(request_id, request_id, KEY, priority, 2, num_steps, 2 * num_steps, 10.0, at)


@pytest.mark.parametrize("burst", [1, 4], ids=["Poisson", "bursts"])
@pytest.mark.parametrize("load", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("curve", "max_rows"), [(TWO_CORES, 16), (GPU, 32)], ids=["cores", "GPU"])
def test_half_of_the_predictions_err_by_less_than_a_tenth(
    curve: dict[int, float], max_rows: int, load: float, burst: int
) -> None:
    errors = []
    for seed in range(3):
        cost = cost_of(curve)
        engine = VirtualEngine(cost, max_rows=max_rows)
        coming = mixed_load(cost, max_rows=max_rows, load=load, num_requests=300, seed=seed, burst=burst)
        engine.run(list(coming))
        errors.append(statistics.median(each.error for each in engine.outcomes))
        assert engine.timetable.accuracy.p90 is not None
    # On two cores batching gains little: whoever follows delays all before it, and nobody knows who follows.
    surprising = curve is TWO_CORES and burst > 1
    assert statistics.mean(errors) <= (0.13 if surprising else 0.10)


def test_errors_are_relative_and_of_late() -> None:
    accuracy = Accuracy()
    assert (accuracy.median, accuracy.p90) == (None, None)
    for predicted_s in (1.0, 1.1, 2.0):
        accuracy.observe(predicted_s, 1.0)
    assert accuracy.median == pytest.approx(0.1)
    assert accuracy.p90 == pytest.approx(0.1 + 0.8 * 0.9)
    for _ in range(1_000):
        accuracy.observe(3.0, 2.0)
    assert (accuracy.median, accuracy.p90) == (0.5, 0.5)


def test_the_load_is_learnt_by_class_and_forgotten() -> None:
    arrivals = Arrivals()
    for index in range(300):
        arrivals.observe(work(f"r{index}", at=index), index)
        if index % 2:
            arrivals.observe(work(f"b{index}", at=index, priority=Priority.BACKGROUND), index)
    assert arrivals.load(300, Priority.INTERACTIVE) == pytest.approx(0.4, rel=0.05)
    assert arrivals.load(300, Priority.BACKGROUND) == pytest.approx(0.2, rel=0.05)
    assert arrivals.load(300) == pytest.approx(0.6, rel=0.05)
    assert arrivals.load(900) < 0.001


def test_a_first_burst_is_no_steady_rate() -> None:
    arrivals = Arrivals()
    for index in range(20):
        arrivals.observe(work(f"r{index}", at=100.0), 100.0)
    # 20 requests of 0.4 s of work.
    assert arrivals.load(100.0) == pytest.approx(8.0)
    assert arrivals.steady_load(100.0) == pytest.approx(0.8)
    assert arrivals.steady_load(101.0) < 0.8


def test_those_of_late_are_expected_again_at_their_pace() -> None:
    arrivals = Arrivals()
    for index in range(200):
        arrivals.observe(work(f"r{index}", at=index / 2, num_steps=8 + index % 2), index / 2)
    coming = list(arrivals.expected(100.0))
    gaps = [later.arrived_at - each.arrived_at for each, later in pairwise(coming)]
    assert gaps == pytest.approx([0.5] * len(gaps), rel=0.05)
    assert {each.num_steps for each in coming} == {8, 9}
    assert len({each.request_id for each in coming}) == len(coming)


def test_nothing_is_expected_after_a_few() -> None:
    arrivals = Arrivals()
    for index in range(4):
        arrivals.observe(work(f"r{index}", at=index), index)
    assert list(arrivals.expected(5.0)) == []
