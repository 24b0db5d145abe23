"""How often a request finds its adapter in memory, and how long it waits: three ways to route in Ray Serve.

The replicas stand in for Denoisers: a bounded cache of adapters, several requests at a time, and time that
is slept instead of computed. So the figures are those of the routing alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate, cycle
from typing import Any, NamedTuple

WAYS = ("plain", "serve", "limner")
NUM_REPLICAS = 2
CACHE_ENTRIES = 32
NUM_AT_ONCE = 8
MAX_ROWS = 2 * NUM_AT_ONCE
MAX_ONGOING = 144
LOAD_S = 0.1
# The replicas of different pipelines each have a router, which sees queues in its own way.
NUM_ROUTERS = 2


@dataclass(frozen=True)
class Traffic:
    """Requests at random times, ``load`` times what the replicas can do, for adapters by Zipf's law."""

    load: float
    duration_s: float
    num_adapters: int = 200
    exponent: float = 1.05
    service_s: float = 0.4
    seed: int = 0


class Arrival(NamedTuple):
    """A request ``at`` seconds from the start that takes ``service_s`` once its adapter is there."""

    at: float
    adapter_id: str
    service_s: float


class Served(NamedTuple):
    """What became of a request. ``waited_s`` is all of its time but its service."""

    replica_id: str
    hit: bool
    waited_s: float


def arrivals(traffic: Traffic) -> Iterator[Arrival]:
    """The same ones for every way to route: Poisson, each with 0.7 to 1.3 times the service time."""
    draw = random.Random(traffic.seed)
    names = [f"adapter-{number:03}" for number in range(traffic.num_adapters)]
    weights = list(accumulate(1 / rank**traffic.exponent for rank in range(1, len(names) + 1)))
    rate = traffic.load * NUM_REPLICAS * NUM_AT_ONCE / traffic.service_s
    at = draw.expovariate(rate)
    while at < traffic.duration_s:
        (adapter_id,) = draw.choices(names, cum_weights=weights)
        yield Arrival(at, adapter_id, traffic.service_s * draw.uniform(0.7, 1.3))
        at += draw.expovariate(rate)


def summary(way: str, load: float, served: Sequence[Served]) -> dict[str, Any]:
    """Figures of one run. ``imbalance`` is the busiest replica's share over an even one's."""
    waits = [each.waited_s * 1_000 for each in served]
    counts = Counter(each.replica_id for each in served)
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    return {
        "way": way,
        "load": load,
        "requests": len(served),
        "hit_rate": round(sum(each.hit for each in served) / len(served), 3),
        "loads": sum(not each.hit for each in served),
        "wait_p50_ms": round(cuts[49], 1),
        "wait_p95_ms": round(cuts[94], 1),
        "imbalance": round(max(counts.values()) * NUM_REPLICAS / len(served), 2),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    heads = list(results[0])
    rows = [heads, *([str(result[head]) for head in heads] for result in results)]
    return "\n".join("  ".join(f"{cell:>11}" for cell in row) for row in rows)


class StandIn:
    """A Denoiser without a network: what it holds, whom it makes wait, and for how long."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, asyncio.Task[None]] = OrderedDict()
        self._at_once = asyncio.Semaphore(NUM_AT_ONCE)

    async def denoise(self, adapter_id: str, service_s: float) -> bool:
        """Whether the adapter was there, or on its way. Loading keeps nobody else from denoising."""
        hit = adapter_id in self._cache
        if not hit:
            self._cache[adapter_id] = asyncio.create_task(asyncio.sleep(LOAD_S))
        self._cache.move_to_end(adapter_id)
        loading = self._cache[adapter_id]
        if len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        await loading
        async with self._at_once:
            await asyncio.sleep(service_s)
        return hit

    @property
    def held(self) -> list[str]:
        return list(self._cache)


def deployed(way: str) -> list[Any]:
    """One handle for each router, to fresh replicas that are routed to in that ``way``."""
    from ray import serve

    from deployments.serving.affinity import router_config, routing_stats

    class Replica:
        def __init__(self) -> None:
            self._stand_in = StandIn()
            self._replica_id = serve.get_replica_context().replica_id.unique_id

        async def denoise(self, adapter_id: str, service_s: float) -> tuple[str, bool]:
            if way == "serve":
                await self.note(adapter_id)
            return self._replica_id, await self._stand_in.denoise(adapter_id, service_s)

        @serve.multiplexed(max_num_models_per_replica=CACHE_ENTRIES)  # type: ignore[untyped-decorator]
        async def note(self, adapter_id: str) -> str:
            return adapter_id

        async def record_routing_stats(self) -> dict[str, list[str]]:
            return routing_stats(self._stand_in.held)

    options: dict[str, Any] = {"num_replicas": NUM_REPLICAS, "max_ongoing_requests": MAX_ONGOING}
    if way == "limner":
        options["request_router_config"] = router_config(MAX_ROWS)
    deployment: Any = serve.deployment(ray_actor_options={"num_cpus": 0}, **options)
    serve.run(
        deployment(Replica).bind(),
        name=way,
        route_prefix=None,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    return [serve.get_app_handle(way) for _ in range(NUM_ROUTERS)]


async def replay(way: str, handles: Sequence[Any], traffic: Traffic) -> list[Served]:
    """Send the traffic when it is due, whether or not earlier requests have come back."""

    async def served(handle: Any, request: Arrival) -> Served:
        begun = time.monotonic()
        chosen = handle if way == "plain" else handle.options(multiplexed_model_id=request.adapter_id)
        replica_id, hit = await chosen.denoise.remote(request.adapter_id, request.service_s)
        return Served(replica_id, hit, time.monotonic() - begun - request.service_s)

    began = time.monotonic()
    tasks = []
    for request, handle in zip(arrivals(traffic), cycle(handles), strict=False):
        await asyncio.sleep(began + request.at - time.monotonic())
        tasks.append(asyncio.create_task(served(handle, request)))
    return await asyncio.gather(*tasks)


@contextmanager
def private_cluster() -> Iterator[None]:
    """A Ray cluster of this process without dashboard and HTTP, on free ports and in a folder of its own."""
    # Ray reads them when it is imported.
    os.environ.update({"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"})
    os.environ.pop("RAY_ADDRESS", None)
    import ray
    from ray import serve

    from serve_app.cli import scratch_folder

    with scratch_folder() as scratch:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(scratch),
        )
        try:
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            serve.start(proxy_location="Disabled")
            yield
        finally:
            serve.shutdown()
            ray.shutdown()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.affinity", description=__doc__)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 0.9])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--duration", type=float, default=6.5, help="seconds of each run")
    parser.add_argument("--exponent", type=float, default=1.05, help="of Zipf's law")
    chosen = parser.parse_args(arguments)
    if min(chosen.loads) <= 0 or chosen.duration <= 0:
        parser.error("loads and durations must be above 0")
    return chosen


def main() -> None:
    chosen = parse()
    results = []
    with private_cluster():
        for way in chosen.ways:
            from ray import serve

            handles = deployed(way)
            # Caches start empty, and every run leaves its own behind.
            runs = [Traffic(0.6, chosen.duration * 2 / 3, exponent=chosen.exponent, seed=1)]
            runs += [Traffic(load, chosen.duration, exponent=chosen.exponent) for load in chosen.loads]
            all_served = [asyncio.run(replay(way, handles, traffic)) for traffic in runs]
            results += [
                summary(way, run.load, served) for run, served in zip(runs[1:], all_served[1:], strict=True)
            ]
            serve.delete(way)
    print(table(results))
    print(json.dumps({"traffic": asdict(runs[-1]), "cache": CACHE_ENTRIES, "results": results}))


if __name__ == "__main__":
    main()
