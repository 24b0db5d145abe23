"""Threads that compute some rows of a call each, on their own, instead of all rows together.

Threads that share every layer wait for each other at its end, which at a few rows takes as long as the
layer. Knows rows and threads; not what is computed.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")

# Of two threads, one with a row less costs as much at five rows as waiting does, more at three.
_MOST_IDLE = 1 / 8


class _Current(threading.local):
    rows: slice | None = None


_CURRENT = _Current()


def current_rows() -> slice | None:
    """The rows of the whole call that this thread computes; None for all."""
    return _CURRENT.rows


def parts_of(num_rows: int) -> list[slice]:
    """The rows that each of this thread's share of cores takes; empty where one call of all is better.

    That is where there is one core, where rows would leave too many idle, or where gradients are recorded.
    """
    num_threads = torch.get_num_threads()
    most = -(-num_rows // num_threads)
    idle = 1 - num_rows / (most * num_threads)
    if num_threads == 1 or idle > _MOST_IDLE or not torch.is_inference_mode_enabled():
        return []
    ends = [num_rows * index // num_threads for index in range(num_threads + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends) if start < end]


def by_rows(call: Callable[[slice], T], parts: Sequence[slice]) -> list[T]:
    """``call`` of each part in a thread of its own that has one core. Raises what the first of them raises.

    None is still at work when it returns or raises.
    """
    calls = [_pool(torch.get_num_threads()).submit(_one, call, part) for part in parts]
    wait(calls)
    return [each.result() for each in calls]


def _one(call: Callable[[slice], T], part: slice) -> T:
    _CURRENT.rows = part
    try:
        with torch.inference_mode():
            return call(part)
    finally:
        _CURRENT.rows = None


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(num_threads, "rows")
    ready = threading.Barrier(num_threads)

    def settle() -> None:
        # PyTorch gives a thread its default number of threads when first asked, whatever was set before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait()

    wait([pool.submit(settle) for _ in range(num_threads)])
    # What a thread sets for itself is also the default of threads to come.
    torch.set_num_threads(num_threads)
    return pool
