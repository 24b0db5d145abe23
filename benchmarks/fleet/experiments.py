"""What is simulated: fleets of a fixed size, a day with autoscaling, and parts of it at other scales."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.fleet.assumptions import Gpu, Nodes
from benchmarks.fleet.fleet import Fleet
from benchmarks.fleet.replicas import BatchReplica, SingleReplica
from benchmarks.fleet.routing import Route, fewest_requests
from benchmarks.fleet.systems import System
from benchmarks.fleet.tally import Tally, quantile
from benchmarks.fleet.traffic import DAY_S, HOUR_S, Mix, day, mean_full_s

# A fleet is warm before anything counts: this many mean requests, or this long for one that scales.
_WARM_UP_REQUESTS = 60.0
_WARM_UP_S = 1_800.0


def fixed_fleet(
    gpu: Gpu, num_gpus: int, load: float, num_requests: int, seed: int = 0, route: Route = fewest_requests
) -> list[dict[str, Any]]:
    """Both engines under the same arrivals, on a fleet that neither grows nor fails.

    ``load`` is the share of what the GPUs could do in full batches. A small fleet is watched for
    longer: about ``num_requests`` come, but no less than 400 for each GPU.
    """
    full_s = mean_full_s(gpu)
    rate = num_gpus * load / full_s
    warm_s = _WARM_UP_REQUESTS * full_s
    until = warm_s + max(num_requests, 400 * num_gpus) / rate
    results = []
    for name, make in (("limner", BatchReplica), ("one at a time", SingleReplica)):
        began = time.process_time()
        fleet = Fleet(lambda make=make: make(gpu), num_gpus, route=route, seed=seed, count_from=warm_s)  # type: ignore[misc]
        tally = fleet.run(Mix(gpu, seed).arrivals(lambda _: rate, 0.0, until), until)
        results.append(
            {
                "system": name,
                "gpus": num_gpus,
                "load": load,
                "pictures_per_gpu_s": round(load / full_s, 2),
                **tally.summary(gpu.usd_per_hour),
                "cpu_s": round(time.process_time() - began, 1),
            }
        )
    return results


def part_of_day(
    system: System,
    gpu: Gpu,
    nodes: Nodes,
    *,
    scale: float,
    from_h: float = 0.0,
    to_h: float = 24.0,
    pictures_per_member: float | None = None,
    seed: int = 0,
    route: Route = fewest_requests,
) -> tuple[dict[str, Any], Tally]:
    """Hours of the day of a share ``scale`` of all members; half an hour before them warms up."""
    began = time.process_time()
    # The clock starts on the evening before where the warm-up does.
    start = from_h * HOUR_S + DAY_S
    since, until = start - _WARM_UP_S, to_h * HOUR_S + DAY_S
    traffic = day(scale, pictures_per_member)
    traffic = replace(traffic, flash_at_s=traffic.flash_at_s + DAY_S)
    fleet = system.fleet(gpu, traffic, nodes, since=since, count_from=start, seed=seed, route=route)
    tally = fleet.run(Mix(gpu, seed).arrivals(traffic, since, until), until)
    result = {
        "system": system.name,
        "gpu": gpu.name,
        "scale": scale,
        "from_h": from_h,
        "to_h": to_h,
        **tally.summary(gpu.usd_per_hour),
        "cpu_s": round(time.process_time() - began, 1),
    }
    return result, tally


def same_with_forecasts(gpu: Gpu, load: float, num_requests: int, seed: int = 0) -> float:
    """The largest difference, in seconds, that leaving out forecasts and single steps makes to a request."""
    rate = load / mean_full_s(gpu)
    finished: list[list[float]] = []
    for forecasts in (True, False):
        replica = BatchReplica(gpu, forecasts=forecasts)
        ends: dict[str, float] = {}
        for request in Mix(gpu, seed).arrivals(lambda _: rate, 0.0, num_requests / rate):
            while replica.wake_at <= request.at:
                now = replica.wake_at
                ends.update((done.request_id, now) for done in replica.wake(now))
            if not replica.submit(request, request.at):
                ends[request.request_id] = -1.0
        finished.append([ends[each] for each in sorted(ends)])
    differences: list[float] = [abs(one - other) for one, other in zip(*finished, strict=True)]
    return max(differences)


def timeline(tally: Tally) -> dict[str, list[float]]:
    """By bins: hours of the day, nodes paid for, and the 99th percentile of the slowdown."""
    bins = sorted(tally.nodes)
    p99 = [quantile(sorted(tally.slowdowns.get(each, ())), 0.99) for each in bins]
    return {
        "hour": [round((each * tally.bin_s - DAY_S) / HOUR_S, 3) for each in bins],
        "nodes": [tally.nodes[each] for each in bins],
        "p99": [round(each, 2) for each in p99],
    }


def table(results: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """The chosen columns for people."""
    rows = [list(columns), *([str(result[column]) for column in columns] for result in results)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
