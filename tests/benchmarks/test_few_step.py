"""The benchmark of few steps on the embedded model, once through."""

from __future__ import annotations

import asyncio

from benchmarks.few_step import parse, run, specs
from core.types import SamplerName
from weights import registry


def test_both_ways_are_those_of_the_model() -> None:
    ways = specs(registry.info("mini"))
    assert ways["few_step"].few_step
    assert not ways["ordinary"].few_step
    assert (ways["few_step"].sampler, ways["few_step"].num_inference_steps) == (SamplerName.DDIM, 4)
    assert (ways["ordinary"].sampler, ways["ordinary"].num_inference_steps) == (SamplerName.DPMPP_2M, 20)


def test_every_way_is_measured_at_every_number_of_requests() -> None:
    report = asyncio.run(run(parse(["--at-once", "1", "2", "--repeats", "1", "--threads", "1"])))
    assert set(report["seconds"]) == {1, 2}
    for ways in report["seconds"].values():
        assert set(ways) == {"few_step", "ordinary"}
        assert min(ways.values()) > 0
