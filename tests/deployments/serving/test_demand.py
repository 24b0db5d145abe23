"""How many replicas the work needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.serving.demand import DAY_S, Demand, Floor, Goal, bounded, floor_at, replicas_for

amounts = st.floats(0, 1e4)


def test_what_arrives_and_what_waits() -> None:
    goal = Goal(utilisation=0.5, horizon_s=20.0)
    assert replicas_for(Demand(work_s=0.0, load=3.0), goal) == 6.0
    assert replicas_for(Demand(work_s=40.0, load=3.0), goal) == 10.0
    assert replicas_for(Demand(0.0, 0.0), goal) == 0.0


@given(amounts, amounts, st.floats(0.1, 1), st.floats(1, 600))
def test_that_many_replicas_are_through_within_the_horizon(
    work_s: float, load: float, utilisation: float, horizon_s: float
) -> None:
    number = replicas_for(Demand(work_s, load), Goal(utilisation, horizon_s))
    assert number * utilisation * horizon_s == pytest.approx(work_s + load * horizon_s)


@pytest.mark.parametrize(("utilisation", "horizon_s"), [(0.0, 1.0), (1.1, 1.0), (0.5, 0.0)])
def test_refuses_goals_that_are_none(utilisation: float, horizon_s: float) -> None:
    with pytest.raises(ValueError, match="utilisation"):
        Goal(utilisation, horizon_s)


def test_a_floor_begins_early_and_lasts_until_the_next() -> None:
    floors = [Floor(8 * 3_600, 10), Floor(20 * 3_600, 30), Floor(23 * 3_600, 4)]
    assert floor_at(floors, 9 * 3_600, lead_s=300) == 10
    assert floor_at(floors, 20 * 3_600 - 301, lead_s=300) == 10
    assert floor_at(floors, 20 * 3_600 - 300, lead_s=300) == 30
    # It falls when the next begins, not before.
    assert floor_at(floors, 23 * 3_600 - 1, lead_s=300) == 30
    assert floor_at(floors, 23 * 3_600, lead_s=300) == 4
    assert floor_at(floors, 3 * 3_600, lead_s=300) == 4, "the night belongs to the evening before"
    assert floor_at(floors, 8 * 3_600 - 60 + 3 * DAY_S, lead_s=300) == 10, "every day"
    assert floor_at([], 0.0, lead_s=300) == 0


def test_a_floor_at_midnight_begins_on_the_day_before() -> None:
    assert floor_at([Floor(0.0, 9), Floor(3_600, 2)], DAY_S - 60, lead_s=120) == 9


@pytest.mark.parametrize(("number", "expected"), [(0.0, 2), (2.0, 2), (2.1, 3), (7.9, 8), (99.0, 8)])
def test_bounds(number: float, expected: int) -> None:
    assert bounded(number, 2, 8) == expected
