"""The affinity benchmark's traffic, stand-in and arithmetic; its timings are nobody's test."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from benchmarks import affinity
from benchmarks.affinity import Served, StandIn, Traffic, arrivals, parse, summary, table


def test_traffic_has_the_asked_rate_and_zipfs_shares() -> None:
    traffic = Traffic(load=0.5, duration_s=500)
    requests = list(arrivals(traffic))
    rate = 0.5 * affinity.NUM_REPLICAS * affinity.NUM_AT_ONCE / traffic.service_s
    assert len(requests) == pytest.approx(rate * 500, rel=0.05)
    shares = Counter(request.adapter_id for request in requests)
    assert shares["adapter-000"] / shares["adapter-001"] == pytest.approx(2**1.05, rel=0.15)
    assert requests == list(arrivals(traffic)), "every way to route gets the same"


async def test_the_stand_in_holds_the_latest_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "CACHE_ENTRIES", 2)
    monkeypatch.setattr(affinity, "LOAD_S", 0.0)
    stand_in = StandIn()
    assert [await stand_in.denoise(name, 0) for name in "abacb"] == [False, False, True, False, False]
    assert stand_in.held == ["c", "b"]


async def test_requests_for_one_adapter_share_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "LOAD_S", 0.0)
    stand_in = StandIn()
    assert await asyncio.gather(*(stand_in.denoise("a", 0) for _ in range(3))) == [False, True, True]


def test_figures_of_a_run() -> None:
    served = [Served("one", True, 0.1)] * 3 + [Served("two", False, 0.3)]
    result = summary("limner", 0.5, served)
    assert (result["hit_rate"], result["loads"], result["imbalance"]) == (0.75, 1, 1.5)
    assert (result["wait_p50_ms"], result["requests"]) == (100.0, 4)
    assert "imbalance" in table([result])


def test_refuses_loads_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--loads", "0"])
    assert "above 0" in capsys.readouterr().err
