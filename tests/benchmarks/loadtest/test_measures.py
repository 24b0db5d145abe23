"""The figures of a point, each computed by hand here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.loadtest.client import CANCELLED, FAILED, OK, REFUSED, Outcome
from benchmarks.loadtest.measures import cost, fair_parts, fairness, is_good, jain, prediction_errors, summary
from benchmarks.loadtest.workload import Asked

SHORT = Asked(0, 0.0, "text", 0, 8, 5.0, 0, "anna")
LONG = replace(SHORT, steps=30, member="ben")
ALONE_S = {"text/8/5": 1.0, "text/30/5": 2.0}


def ok(asked: Asked, latency_s: float, predicted_s: float | None = None, late_s: float = 0.0) -> Outcome:
    return Outcome(asked, OK, late_s, latency_s, predicted_s)


def test_jains_index() -> None:
    assert jain([1.0, 1.0, 1.0]) == 1.0
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([1.0, 0.5]) == pytest.approx(1.5**2 / (2 * 1.25))
    assert jain([]) == jain([0.0, 0.0]) == 1.0


def test_fair_parts_fill_small_wishes_first() -> None:
    assert fair_parts({"a": 1.0, "b": 10.0, "c": 10.0}, 9.0) == {"a": 1.0, "b": 4.0, "c": 4.0}
    assert fair_parts({"a": 1.0, "b": 2.0}, 3.0) == {"a": 1.0, "b": 2.0}


def test_an_answer_is_good_within_three_times_the_standalone_latency() -> None:
    assert is_good(ok(SHORT, 3.0), ALONE_S)
    assert not is_good(ok(SHORT, 3.1), ALONE_S)
    assert is_good(ok(LONG, 5.9), ALONE_S)
    assert not is_good(Outcome(SHORT, REFUSED, 0.0, 0.1), ALONE_S)


def test_it_is_fair_that_who_wants_more_is_refused_more() -> None:
    anna = [ok(SHORT, 1.0)]
    ben = [ok(LONG, 2.0), *(Outcome(LONG, REFUSED, 0.0, 0.1) for _ in range(8))]
    # Three seconds in all: a fair part is 1 for Anna, who wants no more, and 2 for Ben.
    assert fairness(anna + ben, ALONE_S) == 1.0


def test_it_is_unfair_that_one_has_everything() -> None:
    carl = replace(SHORT, member="carl")
    outcomes = [ok(SHORT, 1.0), ok(SHORT, 1.0), Outcome(carl, REFUSED, 0.0, 0.1)]
    # Two seconds in all: 1 for each; Anna has hers and more, Carl has nothing.
    assert fairness(outcomes, ALONE_S) == 0.5


def test_prediction_errors_count_from_sending() -> None:
    outcomes = [ok(SHORT, 1.1, predicted_s=0.9, late_s=0.1), ok(SHORT, 1.0), Outcome(SHORT, FAILED, 0.0, 1.0)]
    assert prediction_errors(outcomes) == [pytest.approx(0.1)]


def test_a_point_adds_up() -> None:
    outcomes = [
        *(ok(SHORT, 1.0, predicted_s=1.2) for _ in range(3)),
        ok(LONG, 7.0, predicted_s=3.5, late_s=0.0),
        Outcome(SHORT, REFUSED, 0.0, 0.1),
        Outcome(LONG, FAILED, 0.2, 9.0),
        Outcome(SHORT, CANCELLED, 0.0, 0.3),
    ]
    found = summary(outcomes, ALONE_S, 10.0)
    assert (found["offered"], found["good"], found["good_share"]) == (6, 3, 0.5)
    assert (found["goodput_per_s"], found["work_goodput"]) == (0.3, 0.3)
    assert (found["done"], found["refused"], found["failed"], found["cancelled"]) == (4, 1, 1, 1)
    assert (found["latency_s_p50"], found["slowdown_p50"]) == (1.0, 1.0)
    # Linear between 1 and 7 seconds, 95 % of the way over three gaps.
    assert found["latency_s_p95"] == pytest.approx(1.0 + 6.0 * 0.85)
    assert (found["predicted"], found["prediction_error"]) == (4, 0.2)
    assert (found["late"], found["late_max_s"]) == (1, 0.2)
    assert found["pipelines"] == {"text": {"offered": 6, "good": 3}}


def test_a_point_without_answers_has_no_percentiles() -> None:
    found = summary([Outcome(SHORT, REFUSED, 0.0, 0.1)], ALONE_S, 10.0)
    assert found["latency_s_p50"] is None
    assert found["prediction_error"] is None
    assert found["good_share"] == 0.0


def test_the_cost_of_a_picture() -> None:
    counted = {"steps": 10.0, "row_steps": 25.0, "busy_s": 2.0}
    assert cost(counted, 4, 6.0) == {
        "rows_per_step": 2.5,
        "padding": 0.0,
        "busy_s_per_picture": 0.5,
        "cpu_s_per_picture": 1.5,
    }
    assert cost(dict.fromkeys(counted, 0.0), 0, None)["rows_per_step"] is None
