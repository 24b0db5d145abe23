"""Tables and ratios of made-up points."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.loadtest.report import comparison, tables, verdict


def point(system: str, load: float, good: int, **others: Any) -> dict[str, Any]:
    return {
        "mix": "B",
        "arrivals": "poisson",
        "system": system,
        "load": load,
        "good": good,
        "offered": 100,
        "good_share": good / 100,
        "goodput_per_s": good / 10,
        "work_goodput": good / 5,
        **others,
    }


POINTS = [
    point("one", 0.7, 60),
    point("one", 1.3, 40),
    point("limner", 0.7, 66, prediction_error=0.08),
    point("limner", 1.3, 84, prediction_error=0.1),
    point("limner", 0.3, 30, prediction_error=0.3),
]


def test_ratios_are_of_the_loads_that_both_have() -> None:
    (found,) = comparison(POINTS)
    assert (found["system"], found["to"]) == ("limner", "one")
    assert found["by_load"] == {"0.7": 1.1, "1.3": 2.1}
    assert found["all"] == found["work_all"] == 1.5
    assert found["peak"] == 1.4


def test_the_verdict_names_where_limner_is_behind() -> None:
    told = verdict([*POINTS, point("batch", 0.7, 70)])["limner"]
    assert told["least_ratio"] == pytest.approx(66 / 70, abs=1e-3)
    assert not told["met"]
    assert told["behind_in"] == ["B poisson load 0.7 to batch"]
    assert (told["prediction_error"], told["prediction_met"]) == (0.1, True)


def test_nothing_in_time_has_no_ratio() -> None:
    (found,) = comparison([point("one", 1.3, 0), point("limner", 1.3, 5)])
    assert found["by_load"] == {"1.3": None}


def test_a_table_has_a_line_for_each_point() -> None:
    lines = tables(POINTS).splitlines()
    assert lines[0] == "### Mix B, poisson arrivals"
    assert sum("limner" in line for line in lines) == 3
    assert "66 of 100" in next(line for line in lines if line.startswith("| 0.70 | limner"))
    assert all(line.count("|") == 18 for line in lines if line.startswith("|"))
