"""Step costs and forecasts, against what then happens under a virtual clock."""

from __future__ import annotations

import random
import statistics

import pytest

from deployments.engine.cost import CostModel
from deployments.engine.work import BatchKey

KEY = BatchKey(4, 32, 32, 77, 192)
LARGE = BatchKey(4, 64, 32, 77, 192)


def measured() -> CostModel:
    cost = CostModel()
    for rows, ms in ((1, 30.0), (2, 45.0), (4, 77.0), (8, 137.0), (16, 260.0)):
        cost.calibrate(KEY, rows, ms)
    return cost


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


def test_learns_a_changed_speed_within_three_pictures() -> None:
    cost = measured()
    for _ in range(3 * 20):
        cost.observe(KEY, 4, 2 * 77.0)
    assert cost.step_ms(KEY, 4) == pytest.approx(154, rel=0.02)
    # The others went half the way, in proportion.
    assert cost.step_ms(KEY, 8) == pytest.approx(2**0.5 * 137, rel=0.05)


def test_a_warm_up_on_a_busy_machine_is_corrected_by_the_first_picture() -> None:
    cost = CostModel()
    cost.calibrate(KEY, 4, 2 * 77.0)
    for _ in range(20):
        cost.observe(KEY, 4, 77.0)
    assert cost.step_ms(KEY, 4) < 1.25 * 77


def test_the_noise_of_steps_that_are_over_hardly_moves_what_is_told() -> None:
    """Steps with a standard deviation of 28 %, as on a busy machine: the mean of 25 of them has 5.6 %."""
    rng, cost = random.Random(0), measured()
    estimates = []
    for _ in range(2_000):
        cost.observe(KEY, 4, 77.0 * rng.lognormvariate(-(0.28**2) / 2, 0.28))
        estimates.append(cost.step_ms(KEY, 4) / 77.0)
    assert statistics.mean(estimates) == pytest.approx(1.0, abs=0.02)
    assert statistics.pstdev(estimates[100:]) < 0.05


def test_the_estimate_is_the_mean_of_uneven_steps() -> None:
    """Every fourth step takes three times as long: a request takes their sum."""
    cost = CostModel()
    cost.calibrate(KEY, 4, 60.0)
    estimates = []
    for index in range(400):
        cost.observe(KEY, 4, 120.0 if index % 4 == 0 else 40.0)
        estimates.append(cost.step_ms(KEY, 4))
    assert statistics.mean(estimates[200:]) == pytest.approx(60.0, rel=0.02)


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


@pytest.mark.parametrize(
    ("curve", "knee", "worth_while"),
    [
        ({1: 30.0, 2: 45.0, 4: 77.0, 8: 137.0, 16: 260.0}, 11, 2),
        ({1: 20.0, 2: 20.5, 4: 22.0, 8: 26.0, 16: 42.0}, 15, 10),
        ({1: 10.0, 16: 160.0}, 1, 2),
        ({1: 10.0, 8: 10.0, 16: 20.0}, 8, 8),
    ],
    ids=["two cores", "GPU", "batching gains nothing", "saturated"],
)
def test_rows_go_from_what_is_worth_while_to_the_knee(
    curve: dict[int, float], knee: int, worth_while: int
) -> None:
    cost = CostModel()
    for rows, ms in curve.items():
        cost.calibrate(KEY, rows, ms)
    assert cost.knee(KEY, 16) == knee
    assert cost.rows_for(KEY, 16, 0.0) == worth_while
    assert cost.rows_for(KEY, 16, 5.0) == max(knee, worth_while)
    some = [cost.rows_for(KEY, 16, load / 20) for load in range(20)]
    assert some == sorted(some)


def test_rows_carry_the_load() -> None:
    cost = measured()
    best = 16 / 260
    for load in (0.75, 0.85, 0.95):
        rows = cost.rows_for(KEY, 16, load)
        assert rows / cost.step_ms(KEY, rows) >= load * best
        assert (rows - 1) / cost.step_ms(KEY, rows - 1) < load * best


def test_a_larger_shape_has_its_knee_at_fewer_rows() -> None:
    assert measured().knee(LARGE, 16) < measured().knee(KEY, 16)


def test_nothing_measured_means_no_knee() -> None:
    assert CostModel().knee(KEY, 16) == 16
    assert CostModel().rows_for(KEY, 16, 0.0) == 16


def test_the_knee_follows_what_is_observed() -> None:
    cost = measured()
    for _ in range(40):
        cost.observe(KEY, 16, 1_000.0)
    assert cost.knee(KEY, 16) <= 8


def test_more_rows_never_take_less() -> None:
    cost = CostModel()
    for rows, ms in ((1, 30.0), (2, 50.0), (4, 40.0), (8, 90.0)):
        cost.calibrate(KEY, rows, ms)
    took = [cost.step_ms(KEY, rows / 2) for rows in range(1, 24)]
    assert took == sorted(took)
