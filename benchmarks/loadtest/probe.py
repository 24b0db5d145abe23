"""How fast this machine is at the moment: one fixed piece of work, done before every point.

Other work on the machine, and its drift, show in it; no system that is measured does.
"""

from __future__ import annotations

import time
from statistics import median

import torch

_SIDE, _REPEATS = 1024, 15


def matmul_ms() -> float:
    """Median milliseconds of a bfloat16 product of two matrices on every core."""
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_SIDE, _SIDE, generator=draw).to(torch.bfloat16) for _ in range(2))
    taken = []
    for _ in range(_REPEATS + 3):
        began = time.perf_counter()
        left @ right
        taken.append(1_000 * (time.perf_counter() - began))
    return round(median(taken[3:]), 3)
