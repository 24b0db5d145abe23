"""CPU threads of a replica. Knows cores and OpenMP; imports no torch, so that graphs can be built with it."""

from __future__ import annotations

import os
from typing import Any


def num_cores() -> int:
    """How many cores this process may use. Ray itself grants one to an actor that asks for less."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def actor_options(gpu_share: float) -> dict[str, Any]:
    """``ray_actor_options`` of a replica that computes.

    By default OpenMP's threads spin for milliseconds at every barrier. Where replicas share cores, each
    spins away the time that the others need; threads that sleep at once lose as much in waking up. A short
    spin does well in both. A UNet step of two rows on two cores (GNU OpenMP): alone, 24 ms by default,
    26 to 32 ms with this, 48 ms sleeping; beside a second process 65 to 70 ms with this, and seconds by
    default on a busy machine. The policy is there so that the spin stays as long in a process with more
    threads than cores; in a replica its effect was not told apart from noise.
    """
    return {
        "num_cpus": 0.1,
        "num_gpus": gpu_share,
        "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "1000"}},
    }
