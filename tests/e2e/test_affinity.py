"""Requests with adapters through real Serve: two light replicas, Limner's router, Limner's streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
import ray
from ray import serve

from benchmarks.affinity import private_cluster
from deployments.pipeline.denoising import Denoise
from deployments.serving.affinity import router_config, routing_stats
from deployments.serving.handles import denoise_through

pytestmark = pytest.mark.e2e

LIMIT_S = 30
MAX_ROWS = 16
MARGIN = MAX_ROWS // 8


@dataclass(frozen=True)
class Adapter:
    adapter_id: str


@dataclass(frozen=True)
class Request:
    """As much of a DenoiseRequest as routing sees; one that is not ``brief`` goes on until cancelled."""

    adapters: tuple[Adapter, ...] = ()
    brief: bool = True


@dataclass(frozen=True)
class Lights:
    denoise: Denoise
    running: Any


@pytest.fixture(scope="module")
def lights() -> Iterator[Lights]:
    class Running:
        """How many streams run on which replica."""

        def __init__(self) -> None:
            self._counts: Counter[str] = Counter()

        def add(self, replica_id: str, number: int) -> None:
            self._counts[replica_id] += number

        def counts(self) -> dict[str, int]:
            return dict(+self._counts)

    class Light:
        def __init__(self, running: Any) -> None:
            self._running = running
            self._held: set[str] = set()
            self._replica_id = serve.get_replica_context().replica_id.unique_id

        async def denoise(self, request: Request) -> AsyncGenerator[str, None]:
            self._held.update(adapter.adapter_id for adapter in request.adapters)
            self._running.add.remote(self._replica_id, 1)
            try:
                yield self._replica_id
                if not request.brief:
                    await asyncio.get_running_loop().create_future()
            finally:
                self._running.add.remote(self._replica_id, -1)

        async def record_routing_stats(self) -> dict[str, list[str]]:
            return routing_stats(self._held)

    with private_cluster():
        running = ray.remote(num_cpus=0)(Running).remote()
        deployed: Any = serve.deployment(
            num_replicas=2,
            max_ongoing_requests=100,
            ray_actor_options={"num_cpus": 0},
            request_router_config=router_config(MAX_ROWS),
        )
        handle = serve.run(deployed(Light).bind(running), name="lights", route_prefix=None)
        yield Lights(denoise_through(handle), running)


async def replica_of(lights: Lights, *adapter_ids: str) -> str:
    """Where a brief request goes."""
    request: Any = Request(tuple(Adapter(adapter_id) for adapter_id in adapter_ids))
    (replica,) = [event async for event in lights.denoise(request)]
    return str(replica)


async def counts_become(lights: Lights, total: int) -> dict[str, int]:
    async with asyncio.timeout(LIMIT_S):
        while True:
            counts: dict[str, int] = await lights.running.counts.remote()
            if sum(counts.values()) == total:
                return counts


async def test_an_adapter_returns_to_its_replica_and_adapters_spread(lights: Lights) -> None:
    homes = {f"adapter-{number}": await replica_of(lights, f"adapter-{number}") for number in range(24)}
    assert min(Counter(homes.values()).values()) >= 4
    for adapter_id, home in homes.items():
        assert await replica_of(lights, adapter_id) == home


async def test_a_stack_goes_where_its_first_adapter_is(lights: Lights) -> None:
    home = await replica_of(lights, "first")
    assert {await replica_of(lights, *stack) for stack in (("first", "second"), ("second", "first"))} == {
        home
    }


async def test_pictures_of_one_request_share_the_replicas_and_their_cancellation_leaks_nothing(
    lights: Lights,
) -> None:
    await counts_become(lights, 0)
    home = await replica_of(lights, "hot")
    await counts_become(lights, 0)

    async def endless(started: asyncio.Event) -> None:
        request: Any = Request((Adapter("hot"),), brief=False)
        async with aclosing(lights.denoise(request)) as events:
            async for _ in events:
                started.set()

    started = [asyncio.Event() for _ in range(8)]
    tasks = [asyncio.create_task(endless(event)) for event in started]
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(event.wait() for event in started))
    counts = await counts_become(lights, 8)
    assert len(counts) == 2
    assert max(counts.values()) - min(counts.values()) <= MARGIN + 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await counts_become(lights, 0)
    # Were a cancelled stream counted for good, the replicas would go on looking unlike each other.
    async with asyncio.timeout(LIMIT_S):
        while [await replica_of(lights, "hot") for _ in range(4)] != [home] * 4:
            pass
