"""One GPU in virtual time, against the virtual engine that the policy's own tests use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.fleet.assumptions import gpu
from benchmarks.fleet.experiments import same_with_forecasts
from benchmarks.fleet.replicas import IDLE, BatchReplica, Replica, SingleReplica
from benchmarks.fleet.traffic import Mix, Request, mean_full_s
from benchmarks.virtual import Arrival, VirtualEngine

GPU = gpu("h100")
INSTANT = replace(GPU, decode_s=0.0)


def serve(replica: Replica, requests: list[Request], until: float = IDLE) -> dict[str, float]:
    """When each of the requests was done."""
    ends: dict[str, float] = {}
    for request in [*requests, None]:
        limit = until if request is None else request.at
        while replica.wake_at <= limit and replica.wake_at < IDLE:
            now = replica.wake_at
            ends.update((done.request_id, now) for done in replica.wake(now))
        if request is not None:
            assert replica.submit(request, request.at)
    return ends


def requests(load: float, number: int = 300, seed: int = 0) -> list[Request]:
    rate = load / mean_full_s(GPU)
    return list(Mix(GPU, seed).arrivals(lambda _: rate, 0.0, number / rate))


@pytest.mark.parametrize("load", [0.3, 0.9])
def test_one_gpu_is_the_virtual_engine(load: float) -> None:
    coming = requests(load)
    engine = VirtualEngine(GPU.cost, max_rows=GPU.max_rows, max_adapters=GPU.max_rows)
    row_ms = GPU.cost.row_ms(GPU.key, GPU.max_rows)
    engine.run([Arrival(each.work(GPU, row_ms, each.at)) for each in coming])
    expected = {each.arrival.work.request_id: each.finished_at for each in engine.outcomes}
    assert serve(BatchReplica(INSTANT), coming) == pytest.approx(expected, abs=1e-6)
    assert serve(BatchReplica(INSTANT, forecasts=True), coming) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("load", [0.7, 1.3])
def test_leaving_out_forecasts_changes_nothing(load: float) -> None:
    assert same_with_forecasts(GPU, load, 300) < 1e-6


@pytest.mark.parametrize("make", [BatchReplica, SingleReplica])
def test_a_request_alone_takes_what_it_takes_alone(make: type[BatchReplica] | type[SingleReplica]) -> None:
    request = Mix(GPU, 3).request("r", 5.0)
    assert serve(make(GPU), [request]) == pytest.approx({"r": 5.0 + request.alone_s})


def test_one_at_a_time_serves_in_order() -> None:
    mix = Mix(GPU, 0)
    coming = [mix.request(f"r{index}", 0.0) for index in range(5)]
    ends = serve(SingleReplica(GPU), coming)
    assert list(ends) == [each.request_id for each in coming]
    assert ends["r4"] == pytest.approx(sum(each.alone_s for each in coming))


@pytest.mark.parametrize("make", [BatchReplica, SingleReplica])
def test_a_queue_has_an_end(make: type[BatchReplica] | type[SingleReplica]) -> None:
    replica, mix = make(GPU), Mix(GPU, 0)
    taken = [replica.submit(mix.request(f"r{index}", 0.0), 0.0) for index in range(200)]
    num_taken = sum(taken)
    assert taken == [True] * num_taken + [False] * (200 - num_taken)
    assert replica.num_ongoing == num_taken
    assert GPU.max_queued_requests <= num_taken <= GPU.max_queued_requests + GPU.max_rows


def test_a_hand_back_continues_from_its_step() -> None:
    replica = BatchReplica(GPU)
    request = Mix(GPU, 3).request("r", 0.0)
    step_s = GPU.cost.step_ms(GPU.key, request.cost_rows) / 1_000
    replica.submit(request, 0.0)
    (left,) = replica.hand_back(3.5 * step_s)
    assert (left.steps_left, replica.num_ongoing, replica.wake_at) == (request.num_steps - 3, 0, IDLE)
    left.at = 10.0
    ends = serve(BatchReplica(GPU), [left])
    assert ends["r"] == pytest.approx(10.0 + (request.num_steps - 3) * step_s + GPU.decode_s)


def test_one_at_a_time_starts_over() -> None:
    replica, request = SingleReplica(GPU), Mix(GPU, 3).request("r", 0.0)
    replica.submit(request, 0.0)
    (left,) = replica.hand_back(request.alone_s / 2)
    assert left.steps_left == request.num_steps


def test_an_autoscaler_hears_of_seconds_of_work() -> None:
    replica, mix = BatchReplica(GPU), Mix(GPU, 0)
    for index in range(10):
        replica.submit(mix.request(f"r{index}", index / 10), index / 10)
    demand = replica.demand(1.0)
    assert demand.work_s > 0
    assert demand.load > 0
    assert BatchReplica(GPU).demand(1.0).work_s == 0
