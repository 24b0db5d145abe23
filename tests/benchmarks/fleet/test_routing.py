"""The better of two random replicas."""

from __future__ import annotations

import random

import pytest

from benchmarks.fleet.assumptions import gpu
from benchmarks.fleet.replicas import BatchReplica, Replica
from benchmarks.fleet.routing import ROUTES, Route
from benchmarks.fleet.traffic import Mix

GPU = gpu("h100")


@pytest.mark.parametrize("route", ROUTES.values(), ids=list(ROUTES))
def test_of_two_the_freer(route: Route) -> None:
    busy, free, mix = BatchReplica(GPU), BatchReplica(GPU), Mix(GPU, 0)
    for index in range(3):
        busy.submit(mix.request(f"r{index}", 0.0), 0.0)
    both: list[Replica] = [busy, free]
    draw = random.Random(0)
    assert all(route(both, 0.0, draw) is free for _ in range(50))
    assert route([busy], 0.0, draw) is busy


@pytest.mark.parametrize("route", ROUTES.values(), ids=list(ROUTES))
def test_all_are_found(route: Route) -> None:
    replicas: list[Replica] = [BatchReplica(GPU) for _ in range(5)]
    draw = random.Random(0)
    assert {id(route(replicas, 0.0, draw)) for _ in range(200)} == set(map(id, replicas))
