"""What breaks first: costs of requests and replicas beside GPUs, measured here, and the sizes they limit.

``--measure`` starts a Ray cluster of stand-ins, takes some minutes, and writes ``fleet/costs.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fleet.experiments import table
from benchmarks.fleet.limits import what_breaks

COSTS = Path(__file__).with_name("fleet") / "costs.json"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure anew instead of reading the file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 10, 16], help="numbers of replicas")
    parser.add_argument("--pictures-per-gpu", type=float, default=5.5, help="a second; an H100's with room")
    chosen = parser.parse_args(arguments)
    if len(chosen.sizes) < 2 or min(chosen.sizes) < 1 or chosen.pictures_per_gpu <= 0:
        parser.error("at least two sizes, and all above 0")
    return chosen


def measured(sizes: Sequence[int]) -> dict[str, Any]:
    from benchmarks.fleet.costs import admission_costs, choosing_costs, store_costs
    from benchmarks.fleet.serve_costs import cluster, controller_costs, router_costs

    costs: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": _machine(),
        "store": store_costs(),
        "choosing": choosing_costs(),
        "admission": admission_costs(),
    }
    with cluster() as url:
        costs["router"] = router_costs(url)
        costs["controller"] = controller_costs(sizes)
    return costs


def _machine() -> str:
    import psutil

    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    cores = psutil.cpu_count()
    return (
        f"{cores} cores of {names[0] if names else platform.processor()}, Python {platform.python_version()}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse(arguments)
    if chosen.measure:
        COSTS.write_text(json.dumps(measured(chosen.sizes), indent=2) + "\n")
    costs = json.loads(COSTS.read_text())
    limits = what_breaks(costs, chosen.pictures_per_gpu)
    print(table(limits, list(limits[0])))
    print(
        json.dumps(
            {
                "benchmark": "limits",
                "date": costs["date"],
                "machine": costs["machine"],
                "pictures_per_gpu_s": chosen.pictures_per_gpu,
                "limits": limits,
            }
        )
    )


if __name__ == "__main__":
    main()
