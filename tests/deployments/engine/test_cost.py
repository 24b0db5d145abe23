"""Step costs and forecasts, against what then happens under a virtual clock."""

from __future__ import annotations

import pytest

from core.types import Priority
from deployments.engine.cost import CostModel, forecast
from deployments.engine.scheduler import BatchKey, Scheduler, Work

KEY = BatchKey(4, 32, 32, 77, 192)
LARGE = BatchKey(4, 64, 32, 77, 192)


def measured() -> CostModel:
    cost = CostModel()
    for rows, ms in ((1, 30.0), (2, 45.0), (4, 77.0), (8, 137.0), (16, 260.0)):
        cost.calibrate(KEY, rows, ms)
    return cost


def work(request_id: str, num_steps: int, *, rows: int = 2, at: float = 0.0) -> Work:
    return Work(
        request_id, request_id, KEY, Priority.INTERACTIVE, rows, num_steps, rows * num_steps, 17.0, at
    )


@pytest.mark.parametrize(
    ("rows", "ms"), [(1, 30), (2, 45), (3, 61), (6, 107), (16, 260), (24, 383), (0.5, 15)]
)
def test_interpolates_between_the_measured_row_counts(rows: float, ms: float) -> None:
    assert measured().step_ms(KEY, rows) == pytest.approx(ms)


def test_an_unmeasured_shape_costs_in_proportion_to_its_area() -> None:
    assert measured().step_ms(LARGE, 4) == pytest.approx(2 * 77)


def test_rows_with_a_branch_count_for_more() -> None:
    cost = measured()
    assert cost.rows(2, None) == 2
    assert cost.rows(2, "edges") == 3
    cost.calibrate_branch("edges", 0.25)
    assert cost.rows(2, "edges") == 2.5
    assert cost.step_ms(KEY, cost.rows(2, "edges")) == pytest.approx(53)


def test_without_any_measurement_there_is_a_guess() -> None:
    assert CostModel(default_row_ms=7.0).step_ms(KEY, 4) == 28.0


def test_learns_a_changed_speed_within_a_few_steps() -> None:
    cost = measured()
    for _ in range(20):
        cost.observe(KEY, 4, 2 * 77.0)
    assert cost.step_ms(KEY, 4) == pytest.approx(154, rel=0.02)
    assert cost.step_ms(KEY, 8) > 1.1 * 137


def test_one_outlier_does_not_overturn_the_model() -> None:
    cost = measured()
    cost.observe(KEY, 4, 60_000.0)
    assert cost.step_ms(KEY, 4) < 1.5 * 77


def test_learns_a_shape_that_was_never_measured() -> None:
    cost = measured()
    for _ in range(30):
        cost.observe(LARGE, 4, 300.0)
    assert cost.step_ms(LARGE, 4) == pytest.approx(300, rel=0.02)
    assert cost.step_ms(KEY, 4) == 77.0


def test_prediction_error_is_the_median_of_the_relative_errors() -> None:
    cost = CostModel()
    assert cost.prediction_error is None
    for predicted_s in (1.0, 1.1, 2.0):
        cost.observe_finish(predicted_s, 1.0)
    assert cost.prediction_error == pytest.approx(0.1)


def test_forecast_of_a_lone_request_is_its_steps() -> None:
    scheduler = Scheduler(max_rows=8)
    scheduler.add(work("a", 20))
    assert forecast(scheduler, measured(), now=5.0).finish_at == {"a": pytest.approx(5 + 20 * 0.045)}


def test_forecast_equals_what_happens_step_by_step() -> None:
    cost, scheduler = measured(), Scheduler(max_rows=4)
    for index, num_steps in enumerate((10, 3, 7, 12, 5)):
        scheduler.add(work(f"r{index}", num_steps, rows=1 + index % 2, at=0.001 * index))
    expected = forecast(scheduler, cost, now=0.0)
    now, finished = 0.0, {}
    first_start = None
    initially = {each.request_id for each in scheduler}
    while batch := scheduler.next_batch(now):
        first_start = now if first_start is None else first_start
        now += cost.step_ms(KEY, sum(each.rows for each in batch)) / 1_000
        for each in batch:
            each.advance(1, each.rows)
            if each.num_steps == 0:
                finished[each.request_id] = now
                scheduler.remove(each.request_id)
    assert finished.keys() == initially
    assert expected.finish_at == pytest.approx(finished)
    assert expected.first_start_at == first_start


def test_forecast_says_when_the_first_queued_request_starts() -> None:
    scheduler = Scheduler(max_rows=2)
    scheduler.add(work("running", 10))
    scheduler.next_batch(0.0)
    scheduler.add(work("queued", 10, at=0.1))
    assert forecast(scheduler, measured(), now=1.0).first_start_at == pytest.approx(1 + 10 * 0.045)


def test_forecast_leaves_the_scheduler_alone() -> None:
    scheduler = Scheduler(max_rows=2)
    scheduler.add(work("a", 10))
    forecast(scheduler, measured(), now=0.0)
    assert [(each.num_steps, each.tag) for each in scheduler] == [(10, None)]
