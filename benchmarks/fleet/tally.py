"""What became of the requests, and what the nodes cost. Knows no order of service."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.fleet.traffic import HOUR_S

# A picture in time is one that took at most so many times what it takes on an idle GPU.
IN_TIME = 3.0


@dataclass
class Tally:
    """Counts from ``since`` on. Every request that arrives ends as done or refused, or is still running."""

    bin_s: float = 300.0
    num_arrived: int = 0
    num_refused: int = 0
    num_running: int = 0
    num_restarts: int = 0
    num_handed_back: int = 0
    num_crashes: int = 0
    num_notices: int = 0
    node_s: float = 0.0
    peak_nodes: int = 0
    # Latency over that of the same request on an idle GPU, by the time at which the request ended.
    slowdowns: dict[int, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("f")))
    refusals: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    nodes: dict[int, int] = field(default_factory=dict)

    @property
    def num_done(self) -> int:
        return sum(map(len, self.slowdowns.values()))

    def done(self, slowdown: float, now: float) -> None:
        self.slowdowns[int(now / self.bin_s)].append(slowdown)

    def refused(self, now: float) -> None:
        self.num_refused += 1
        self.refusals[int(now / self.bin_s)] += 1

    def see_nodes(self, num_nodes: int, now: float) -> None:
        """``num_nodes`` are paid for at ``now``."""
        self.nodes[int(now / self.bin_s)] = num_nodes
        self.peak_nodes = max(self.peak_nodes, num_nodes)

    def summary(self, usd_per_hour: float) -> dict[str, Any]:
        every = sorted(value for each in self.slowdowns.values() for value in each)
        gpu_hours = self.node_s / HOUR_S
        ended = len(every) + self.num_refused
        in_time = sum(value <= IN_TIME for value in every)
        return {
            "arrived": self.num_arrived,
            "done": len(every),
            "refused": self.num_refused,
            "running": self.num_running,
            "p50": round(quantile(every, 0.50), 2),
            "p99": round(quantile(every, 0.99), 2),
            "refused_share": round(self.num_refused / max(ended, 1), 5),
            "in_time_share": round(in_time / max(ended, 1), 4),
            "gpu_hours": round(gpu_hours, 1),
            "peak_gpus": self.peak_nodes,
            "usd_per_1000": round(gpu_hours * usd_per_hour / max(len(every), 1) * 1_000, 4),
            "usd_per_1000_in_time": round(gpu_hours * usd_per_hour / max(in_time, 1) * 1_000, 4),
            "restarts": self.num_restarts,
            "handed_back": self.num_handed_back,
            "crashes": self.num_crashes,
            "notices": self.num_notices,
        }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of ``ordered`` do not exceed; NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[min(math.ceil(share * len(ordered)) - 1, len(ordered) - 1)]
