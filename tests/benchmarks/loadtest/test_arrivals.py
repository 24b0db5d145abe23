"""The gaps' mean and variation, as the distributions have them."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import mean, stdev

import pytest

from benchmarks.loadtest.arrivals import arrival_times


def gaps(kind: str) -> list[float]:
    return [b - a for a, b in pairwise(arrival_times(kind, 5.0, 4_000.0, Random(1)))]


@pytest.mark.parametrize(("kind", "variation"), [("poisson", 1.0), ("bursty", 2**0.5)])
def test_gaps_have_the_rate_and_the_variation_of_their_kind(kind: str, variation: float) -> None:
    found = gaps(kind)
    assert mean(found) == pytest.approx(1 / 5.0, rel=0.03)
    assert stdev(found) / mean(found) == pytest.approx(variation, rel=0.04)


@pytest.mark.parametrize("kind", ["poisson", "bursty"])
def test_all_times_lie_within_the_duration_and_never_go_back(kind: str) -> None:
    times = list(arrival_times(kind, 3.0, 20.0, Random(2)))
    assert times[0] > 0
    assert times == sorted(times)
    assert times[-1] < 20.0


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="poisson, bursty"):
        list(arrival_times("steady", 1.0, 1.0, Random(0)))
