"""Scale on paper: fleets of 1 to 2 000 GPUs and a day of ten million members, in virtual time.

The policy and the cost model are the service's own; what GPUs, members and nodes do is assumed in
``benchmarks/fleet/assumptions.toml``, and what requests cost beside GPUs is measured (``benchmarks.limits``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.fleet import assumptions
from benchmarks.fleet.experiments import fixed_fleet, part_of_day, same_with_forecasts, table, timeline
from benchmarks.fleet.routing import ROUTES
from benchmarks.fleet.systems import systems
from benchmarks.fleet.traffic import mean_alone_s, mean_full_s

SWEEP = (
    "system",
    "gpus",
    "load",
    "arrived",
    "p50",
    "p99",
    "in_time_share",
    "refused_share",
    "gpu_hours",
    "usd_per_1000",
)
DAY = (
    "system",
    "scale",
    "arrived",
    "p50",
    "p99",
    "in_time_share",
    "refused_share",
    "gpu_hours",
    "peak_gpus",
    "usd_per_1000",
    "usd_per_1000_in_time",
    "restarts",
    "handed_back",
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("what", choices=["sweep", "day", "same"], help="same: with and without forecasts")
    parser.add_argument("--gpu", choices=list(assumptions.load()["gpus"]), default="h100")
    parser.add_argument("--usd-per-hour", type=float, help="of a GPU; the default is in assumptions.toml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--route", choices=list(ROUTES), default="requests", help="the shorter of two, by")
    sweep = parser.add_argument_group("sweep")
    sweep.add_argument("--gpus", type=int, nargs="+", default=[1, 10, 100, 1_000, 2_000])
    sweep.add_argument("--loads", type=float, nargs="+", default=[0.45, 0.75], help="of full batches")
    sweep.add_argument("--requests", type=int, default=100_000, help="about so many a run")
    of_day = parser.add_argument_group("day")
    of_day.add_argument("--scale", type=float, default=0.1, help="share of the members")
    of_day.add_argument("--hours", type=float, nargs=2, default=[0.0, 24.0], metavar=("FROM", "TO"))
    of_day.add_argument("--pictures-per-member", type=float, help="a day, over all members")
    of_day.add_argument("--systems", type=int, nargs="+", help="by number, from 0; all of them if left out")
    of_day.add_argument("--utilisation", type=float, default=0.75, help="Limner's goal")
    of_day.add_argument("--batch-target", type=float, default=6.0, help="ongoing requests a replica")
    of_day.add_argument("--single-target", type=float, default=1.3, help="the same, one at a time")
    of_day.add_argument("--start-s", type=float, help="of a node")
    of_day.add_argument("--timeline", type=Path, help="a JSON file for the course of the day")
    chosen = parser.parse_args(arguments)
    if min(chosen.gpus) < 1 or min(chosen.loads) <= 0 or not 0 < chosen.scale <= 1:
        parser.error("GPUs, loads and scale must be above 0, scale at most 1")
    if not 0 <= chosen.hours[0] < chosen.hours[1]:
        parser.error("hours must go forward")
    return chosen


def sweep(chosen: argparse.Namespace, gpu: assumptions.Gpu) -> list[dict[str, Any]]:
    results = []
    for load in chosen.loads:
        for num_gpus in chosen.gpus:
            results += fixed_fleet(gpu, num_gpus, load, chosen.requests, chosen.seed, ROUTES[chosen.route])
    return results


def days(chosen: argparse.Namespace, gpu: assumptions.Gpu) -> Iterator[dict[str, Any]]:
    nodes = assumptions.nodes()
    if chosen.start_s is not None:
        nodes = replace(nodes, start_s=chosen.start_s)
    compared = systems(chosen.utilisation, chosen.batch_target, chosen.single_target)
    courses = {}
    for number in chosen.systems or range(len(compared)):
        result, tally = part_of_day(
            compared[number],
            gpu,
            nodes,
            scale=chosen.scale,
            from_h=chosen.hours[0],
            to_h=chosen.hours[1],
            pictures_per_member=chosen.pictures_per_member,
            seed=chosen.seed,
            route=ROUTES[chosen.route],
        )
        courses[result["system"]] = timeline(tally)
        if chosen.timeline:
            chosen.timeline.write_text(
                json.dumps({"gpu": gpu.name, "scale": chosen.scale, "courses": courses})
            )
        yield result


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse(arguments)
    gpu = assumptions.gpu(chosen.gpu, chosen.usd_per_hour)
    report: dict[str, Any] = {
        "benchmark": f"simulate {chosen.what}",
        "gpu": gpu.name,
        "usd_per_hour": gpu.usd_per_hour,
        "mean_full_ms": round(mean_full_s(gpu) * 1_000, 1),
        "mean_alone_ms": round(mean_alone_s(gpu) * 1_000, 1),
    }
    if chosen.what == "sweep":
        report["results"] = sweep(chosen, gpu)
        print(table(report["results"], SWEEP))
    elif chosen.what == "day":
        report["nodes"] = asdict(assumptions.nodes())
        report["results"] = []
        for result in days(chosen, gpu):
            report["results"].append(result)
            print(json.dumps(result), flush=True)
        print(table(report["results"], DAY))
    else:
        report["results"] = [
            {"load": load, "largest_difference_s": same_with_forecasts(gpu, load, 3_000, chosen.seed)}
            for load in chosen.loads
        ]
        print(table(report["results"], ("load", "largest_difference_s")))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
