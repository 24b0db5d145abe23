"""How many nodes a fleet asks for. Delays and gains are compared with Ray Serve's own functions."""

from __future__ import annotations

import random

import pytest

from benchmarks.fleet.scaling import Autoscaler, CountRule, Delays, Gains, Report, WorkRule, floors_of
from deployments.serving.demand import Demand, Floor, Goal


def report(num_ongoing: int = 0, work_s: float = 0.0, load: float = 0.0) -> Report:
    return Report(num_ongoing, Demand(work_s, load))


def test_the_rules() -> None:
    assert CountRule(2.0)([report(8), report(4)]) == 3.0
    reports = [report(work_s=30.0, load=1.0), report(work_s=10.0, load=3.0)]
    assert WorkRule(Goal(0.5, 20.0))(reports) == 6.0


@pytest.mark.parametrize("seed", range(3))
def test_delays_are_those_of_ray_serve(seed: int) -> None:
    from ray.serve.autoscaling_policy import _apply_delay_logic
    from ray.serve.config import AutoscalingConfig

    config, draw = AutoscalingConfig(min_replicas=1, max_replicas=50), random.Random(seed)
    ours, theirs = 10, 10
    state: dict[str, object] = {}
    delays = Delays(config.upscale_delay_s, config.downscale_delay_s)
    for tick in range(1, 1_000):
        # Long spells, so that some outlast the delays.
        if tick == 1 or draw.random() < 0.02:
            level = draw.randrange(2, 50)
        wanted = max(level + draw.choice((-1, 0, 0, 0, 1)), 1)
        ours = delays.decide(wanted, ours, tick * 10.0)
        theirs, state = _apply_delay_logic(wanted, theirs, config, state, _now=tick * 10.0)
        assert ours == theirs


def test_gains_are_those_of_ray_serve() -> None:
    from ray.serve.autoscaling_policy import _apply_scaling_factors
    from ray.serve.config import AutoscalingConfig

    config = AutoscalingConfig(min_replicas=1, max_replicas=50, upscaling_factor=0.5, downscaling_factor=0.2)
    for current in range(1, 30):
        for wanted in (0.5, 1.0, 4.2, 10.0, 17.9, 40.0):
            assert Gains(0.5, 0.2).apply(wanted, current) == _apply_scaling_factors(wanted, current, config)


def test_bounds_and_floors() -> None:
    scaler = Autoscaler(
        CountRule(1.0),
        Delays(0.0, 0.0),
        most=20,
        least=2,
        floors=[Floor(0.0, 4), Floor(3_600.0, 9)],
        lead_s=180.0,
    )
    assert scaler.decide(report(0), 6, 0.0) == 4
    assert scaler.decide(report(300), 4, 10.0) == 20
    for tick in range(3):
        decided = scaler.decide(report(0), 4, 3_420.0 + tick)
    assert decided == 9, "a floor begins its lead early"


def test_floors_follow_the_day() -> None:
    floors = floors_of(lambda at: 10.0 if at < 43_200 else 20.0, full_s=0.5, utilisation=0.5)
    assert len(floors) == 96
    assert (floors[0].num_replicas, floors[-2].num_replicas) == (10, 20)
    assert floors[47].num_replicas == 20, "the quarter before the change is ready for it"
