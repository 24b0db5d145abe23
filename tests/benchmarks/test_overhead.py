"""The stages of a request add up, and only the service's own count as overhead."""

from __future__ import annotations

import pytest

from benchmarks.overhead import figures, own_ms, parse, stages, table

TOLD = {
    "encode": 0.005,
    "denoise": 0.030,
    "decode": 0.010,
    "total": 0.045,
    "engine": 0.026,
    "file": 0.003,
    "router": 0.004,
}


def test_stages_add_up_to_the_latency() -> None:
    split = stages(0.052, TOLD)
    assert sum(split.values()) == pytest.approx(52.0)
    assert split == pytest.approx(
        {"http": 3, "router": 4, "denoiser hop": 4, "file": 3, "text": 5, "engine": 26, "vae": 7}
    )
    assert own_ms(split) == pytest.approx(14.0)


def test_figures_are_medians() -> None:
    found = figures([stages(latency_s, TOLD) for latency_s in (0.052, 0.053, 0.060)])
    assert (found["overhead_ms"], found["least_ms"], found["met"]) == (15.0, 14.0, True)
    assert found["stages_ms"]["http"] == 4.0
    assert "15.00 ms  overhead" in table(found)


def test_one_request_is_no_median() -> None:
    with pytest.raises(SystemExit):
        parse(["--requests", "1"])
