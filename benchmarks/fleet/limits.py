"""At which size which part reaches its limit: arithmetic on what ``benchmarks.limits`` measured.

Knows costs per request and per replica; measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# A process that takes requests is full at this share of a core: beyond it requests queue for it.
FULL = 0.7
# Replicas beside each Denoiser that hold a handle to it: one of each pipeline.
_HANDLES_PER_GPU = 3
_STEPS = 18
# What an H100-like GPU needs for a picture: nobody should wait as long to be sent to one.
_PATIENCE_S = 0.1
_SIZES = (1, 10, 100, 1_000, 2_000, 5_000)


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its load in cores (or shares of what it can do) by GPUs, and what to do when it is full."""

    name: str
    load: Callable[[int], float]
    remedy: str

    def limit(self) -> int | None:
        """The number of GPUs at which it is full; None if no size of note is enough."""
        low, high = 1, 1_000_000
        if self.load(high) < FULL:
            return None
        while low < high:
            middle = (low + high) // 2
            if self.load(middle) >= FULL:
                high = middle
            else:
                low = middle + 1
        return low


def line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of the least squares."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    return mean_y - slope * mean_x, slope


def parts(costs: dict[str, Any], pictures_per_gpu_s: float) -> list[Part]:
    """Every part of the service beside GPUs, one process or one server of each."""
    router = line(*_columns(costs["router"], "num_steps", "Router"))
    router_s = (router[0] + router[1] * _STEPS) / 1_000
    haproxy_s = max(each["haproxy"] for each in costs["router"]) / 1_000
    controller = line(*_columns(costs["controller"], "denoisers", "controller_cores"))
    probe_ms = line(*_columns(costs["controller"], "denoisers", "cold_request_cpu_ms"))[1]
    store_s = costs["store"]["job_wall_ms"] / 1_000
    choose_s = costs["choosing"]["choose_us"]["1000"] / 1e6 / 1_000

    return [
        Part(
            "router, one replica", lambda gpus: gpus * pictures_per_gpu_s * router_s, "more Router replicas"
        ),
        Part(
            "store, SQLite, if each picture is a job",
            lambda gpus: gpus * pictures_per_gpu_s * store_s,
            "PostgreSQL",
        ),
        Part(
            "HAProxy, one node",
            lambda gpus: gpus * pictures_per_gpu_s * haproxy_s,
            "one on every node, a load balancer before them",
        ),
        Part(
            f"choosing a Denoiser for an adapter, of {_PATIENCE_S:g} s",
            # A pipeline replica forgets queues after a second, and then asks every Denoiser for its own.
            lambda gpus: gpus * (max(probe_ms, 0.0) / 1_000 + choose_s) / _PATIENCE_S,
            "ask a few homes of the adapter only",
        ),
        Part(
            "Serve controller, one per cluster",
            # Measured with as many handles as Denoisers; pipelines are replicas, too.
            lambda gpus: max(controller[0], 0.0) + controller[1] * gpus * (1 + _HANDLES_PER_GPU) / 2,
            "cells: several RayServices behind the gateway",
        ),
    ]


def what_breaks(costs: dict[str, Any], pictures_per_gpu_s: float) -> list[dict[str, Any]]:
    """Every part's limit and its load at some sizes, the first to break first."""
    rows = []
    for part in parts(costs, pictures_per_gpu_s):
        limit = part.limit()
        rows.append(
            {
                "part": part.name,
                "full_at_gpus": limit,
                **{f"at_{size}": round(part.load(size), 3) for size in _SIZES},
                "remedy": part.remedy,
            }
        )
    return sorted(rows, key=lambda row: row["full_at_gpus"] or math.inf)


def _columns(rows: Sequence[dict[str, float]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [row[x] for row in rows], [row[y] for row in rows]
