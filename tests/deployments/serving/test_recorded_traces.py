"""The policy on what it was really asked in bursts at a live service (``benchmarks.scaling_trace``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingContext

from core.scaling import WorkScaling
from deployments.serving.demand import bounded
from deployments.serving.scaling import replica_options
from tests.deployments.serving.test_scaling import context, policy_of

TRACES = sorted(Path(__file__).with_name("traces").glob("*.json"))
# Serve's controller calls the policy more often than ticks were kept.
TICK_S = 1.0


@dataclass(frozen=True)
class Trace:
    """Calls of the policy, in order."""

    scaling: WorkScaling
    ticks: tuple[dict[str, Any], ...]

    def contexts(self) -> list[AutoscalingContext]:
        return [
            context(
                tick["reports"],
                num_inside=tick["num_requests"] - tick["num_queued"],
                num_queued=tick["num_queued"],
                at=tick["at_s"],
            )
            for tick in self.ticks
        ]

    def decided(self, scaling: WorkScaling | None = None) -> list[int]:
        """The replicas that Serve makes of the policy's answers, tick by tick; the delays are its own."""
        scaling = scaling or self.scaling
        policy, config = policy_of(scaling), replica_options(1, scaling)["autoscaling_config"]
        target, state = scaling.min_replicas, dict[str, Any]()
        decided = []
        for asked in self.contexts():
            wanted = bounded(policy(asked)[0], scaling.min_replicas, scaling.max_replicas)
            target, state = _apply_delay_logic(wanted, target, config, state, _now=asked.current_time)
            decided.append(target)
        return decided

    def first(self, condition: list[bool]) -> float:
        """When something was true for the first time."""
        return next(float(tick["at_s"]) for tick, true in zip(self.ticks, condition, strict=True) if true)


@cache
def read(path: Path) -> Trace:
    document = json.loads(path.read_text("utf-8"))
    return Trace(WorkScaling.model_validate(document["scaling"]), tuple(document["ticks"]))


@pytest.fixture(params=TRACES, ids=lambda path: path.stem)
def trace(request: pytest.FixtureRequest) -> Trace:
    return read(request.param)


def runs(sizes: list[int]) -> list[int]:
    """Each size once, in order."""
    return [size for size, _ in groupby(sizes)]


def test_there_are_bursts() -> None:
    assert TRACES
    assert all(max(read(path).decided()) == read(path).scaling.max_replicas for path in TRACES)


def test_the_policy_answers_as_it_did(trace: Trace) -> None:
    policy = policy_of(trace.scaling)
    answers = [policy(asked)[0] for asked in trace.contexts()]
    assert answers == pytest.approx([tick["wanted"] for tick in trace.ticks], abs=0.01)


def test_serve_decided_the_same_sizes(trace: Trace) -> None:
    assert runs(trace.decided()) == runs([tick["num_wanted_before"] for tick in trace.ticks])


def test_replicas_rise_and_fall_once(trace: Trace) -> None:
    sizes = runs(trace.decided())
    peak = sizes.index(max(sizes))
    assert all(before < after for before, after in pairwise(sizes[: peak + 1]))
    assert all(before > after for before, after in pairwise(sizes[peak:]))


def test_they_rise_within_the_delay_and_the_look_back(trace: Trace) -> None:
    scaling, sizes = trace.scaling, trace.decided()
    came = trace.first([tick["num_requests"] > 1 for tick in trace.ticks])
    rose = trace.first([size > scaling.min_replicas for size in sizes])
    full = trace.first([size == scaling.max_replicas for size in sizes])
    assert rose - came <= scaling.upscale_delay_s + scaling.look_back_s + TICK_S
    assert full - came <= 2 * (scaling.upscale_delay_s + scaling.look_back_s) + TICK_S


def test_they_stay_while_there_is_work_and_go_soon_after(trace: Trace) -> None:
    scaling, sizes = trace.scaling, trace.decided()
    last = max(tick["at_s"] for tick in trace.ticks if tick["num_requests"] >= 1)
    fell = trace.first([after < before for before, after in zip([0, *sizes], sizes, strict=False)])
    resting = [size == scaling.min_replicas for size in sizes]
    after = [tick["at_s"] > last for tick in trace.ticks]
    rest = trace.first([all(pair) for pair in zip(resting, after, strict=True)])
    assert fell >= last
    assert sizes[-1] == scaling.min_replicas
    assert rest - last <= scaling.downscale_delay_s + 2 * scaling.look_back_s + TICK_S


@pytest.mark.parametrize("changes", [{"horizon_s": 60.0}, {"utilisation": 1.0}, {"max_replicas": 2}])
def test_whoever_asks_for_less_gets_no_more(trace: Trace, changes: dict[str, Any]) -> None:
    less = trace.scaling.model_copy(update=changes)
    assert max(trace.decided(less)) <= max(trace.decided())
    assert sum(trace.decided(less)) < sum(trace.decided())


def test_a_floor_keeps_replicas_through_the_rest(trace: Trace) -> None:
    floor = {"floors": [{"at": "00:00", "num_replicas": 2}]}
    kept = WorkScaling.model_validate({**trace.scaling.model_dump(mode="json"), **floor})
    sizes = trace.decided(kept)
    assert sizes[-1] == 2
    assert min(sizes[len(sizes) // 2 :]) >= 2


def test_without_delays_it_would_flap(trace: Trace) -> None:
    """That the trace is not so tame that any policy would pass."""
    hasty = trace.scaling.model_copy(update={"downscale_delay_s": 0.0, "upscale_delay_s": 0.0})
    assert len(runs(trace.decided(hasty))) >= len(runs(trace.decided()))
