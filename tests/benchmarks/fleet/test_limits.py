"""Sizes at which parts are full, from costs that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.fleet.limits import FULL, Part, line, what_breaks

COSTS: dict[str, Any] = {
    "router": [
        {"num_steps": 1, "Router": 5.0, "haproxy": 0.5},
        {"num_steps": 20, "Router": 14.5, "haproxy": 0.5},
    ],
    "controller": [
        {"denoisers": 10, "controller_cores": 0.1, "cold_request_cpu_ms": 12.0},
        {"denoisers": 20, "controller_cores": 0.2, "cold_request_cpu_ms": 22.0},
    ],
    "store": {"job_wall_ms": 20.0},
    "choosing": {"choose_us": {"1000": 700.0}},
}


def test_a_line_through_points() -> None:
    assert line([1, 2, 3], [5, 7, 9]) == pytest.approx((3, 2))


def test_a_part_is_full_where_its_load_says_so() -> None:
    assert Part("", lambda gpus: gpus / 100, "").limit() == FULL * 100
    assert Part("", lambda gpus: 0.0, "").limit() is None
    assert Part("", lambda gpus: 5.0, "").limit() == 1


def test_the_first_to_break_comes_first() -> None:
    limits = {row["part"].split(",")[0]: row for row in what_breaks(COSTS, pictures_per_gpu_s=5.0)}
    assert list(limits)[:2] == ["store", "router"]
    assert limits["store"]["full_at_gpus"] == 7
    # 5 ms and half a millisecond for each further of 18 steps: 13.5 ms.
    assert limits["router"]["at_10"] == pytest.approx(5 * 10 * 0.0135)
    # As many handles as Denoisers were measured; there are three for each.
    assert limits["Serve controller"]["at_100"] == pytest.approx(2.0)
