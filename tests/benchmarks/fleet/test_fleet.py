"""Fleets: every request ends once whatever happens to nodes, and a seed tells the whole story."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fleet.assumptions import Nodes, gpu
from benchmarks.fleet.fleet import Fleet
from benchmarks.fleet.replicas import BatchReplica, SingleReplica
from benchmarks.fleet.scaling import Autoscaler, CountRule, Delays, WorkRule
from benchmarks.fleet.tally import Tally
from benchmarks.fleet.traffic import Mix, mean_full_s
from deployments.serving.demand import Floor, Goal

GPU = gpu("h100")
FULL_S = mean_full_s(GPU)
RELIABLE = Nodes(60.0, 1e9, 20.0, 0.0, 1e9, 30.0)
# A node lives for a minute or so.
FRAIL = Nodes(1.0, 0.02, 5.0, 0.5, 0.02, 0.05)


def run(
    make: type[BatchReplica] | type[SingleReplica] = BatchReplica,
    *,
    num_gpus: int = 3,
    load: float = 0.7,
    seconds: float = 60.0,
    until: float = 60.0,
    seed: int = 0,
    nodes: Nodes | None = None,
    autoscaler: Autoscaler | None = None,
) -> Tally:
    fleet = Fleet(lambda: make(GPU), num_gpus, nodes=nodes, autoscaler=autoscaler, seed=seed)
    rate = num_gpus * load / FULL_S
    return fleet.run(Mix(GPU, seed).arrivals(lambda _: rate, 0.0, seconds), until)


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([BatchReplica, SingleReplica]),
    st.integers(1, 4),
    st.floats(0.2, 3.0),
    st.integers(0, 100),
    st.sampled_from([None, RELIABLE, FRAIL]),
    st.booleans(),
)
def test_every_arrival_ends_once(
    make: type[BatchReplica] | type[SingleReplica],
    num_gpus: int,
    load: float,
    seed: int,
    nodes: Nodes | None,
    scales: bool,
) -> None:
    rule = WorkRule(Goal()) if make is BatchReplica else CountRule()
    autoscaler = Autoscaler(rule, Delays(5.0, 10.0), most=6) if scales else None
    fleet = Fleet(lambda: make(GPU), num_gpus, nodes=nodes, autoscaler=autoscaler, seed=seed)
    rate = num_gpus * load / FULL_S
    tally = fleet.run(Mix(GPU, seed).arrivals(lambda _: rate, 0.0, 15.0), 15.0)
    assert tally.num_arrived == tally.num_done + tally.num_refused + tally.num_running
    assert tally.num_running == fleet.num_at_large
    # Left to themselves, all of them end.
    tally = fleet.run([])
    assert tally.num_arrived == tally.num_done + tally.num_refused
    assert fleet.num_at_large == 0


def test_a_seed_tells_the_whole_story() -> None:
    def story(seed: int) -> Tally:
        return run(nodes=FRAIL, seed=seed, autoscaler=Autoscaler(WorkRule(Goal()), Delays(), most=6))

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_failures_lose_nothing() -> None:
    tally = run(num_gpus=8, load=0.3, nodes=FRAIL, until=float("inf"))
    assert tally.num_crashes > 3
    assert tally.num_restarts > 3
    assert tally.num_refused == 0
    assert tally.num_done == tally.num_arrived


def test_a_notice_hands_back_what_the_drain_leaves() -> None:
    spot = replace(RELIABLE, start_s=1.0, spot_share=1.0, spot_hours_to_notice=0.005, drain_s=0.02)
    tally = run(num_gpus=8, load=0.1, nodes=spot, until=float("inf"))
    assert tally.num_notices > 3
    assert tally.num_handed_back > 3
    assert (tally.num_restarts, tally.num_refused) == (0, 0)
    assert tally.num_done == tally.num_arrived


def test_more_gpus_for_more_work_and_fewer_for_less() -> None:
    scaler = Autoscaler(WorkRule(Goal(0.6)), Delays(10.0, 60.0), most=20)
    fleet = Fleet(lambda: BatchReplica(GPU), 2, nodes=RELIABLE, autoscaler=scaler)
    rate = 5 * 0.6 / FULL_S
    tally = fleet.run(Mix(GPU, 0).arrivals(lambda at: rate if at < 600 else rate / 5, 0.0, 1_200.0), 1_200.0)
    assert 4 <= tally.nodes[1] <= 10
    assert tally.nodes[3] <= 2


def test_gpu_time_is_paid_from_the_start_of_a_node() -> None:
    assert run(num_gpus=3, until=60.0).node_s == pytest.approx(180.0)
    scaler = Autoscaler(CountRule(1.0), Delays(0.0, 1e9), most=5, floors=[Floor(0.0, 5)])
    tally = run(num_gpus=3, load=0.01, until=60.0, nodes=RELIABLE, autoscaler=scaler)
    assert tally.node_s == pytest.approx(180.0 + 2 * 50.0), "two begin at the first report, 10 s in"


def test_figures() -> None:
    tally = Tally(node_s=7_200.0, num_arrived=5)
    for slowdown in (1.0, 2.0, 3.0, 10.0):
        tally.done(slowdown, 100.0)
    tally.refused(200.0)
    summary = tally.summary(usd_per_hour=3.0)
    assert (summary["p50"], summary["p99"], summary["refused_share"]) == (2.0, 10.0, 0.2)
    assert (summary["gpu_hours"], summary["in_time_share"]) == (2.0, 0.6)
    assert (summary["usd_per_1000"], summary["usd_per_1000_in_time"]) == (1_500.0, 2_000.0)
