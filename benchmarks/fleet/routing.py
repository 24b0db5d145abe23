"""Which replica gets a request: the better of two random ones, as Ray Serve does. Knows no time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from benchmarks.fleet.replicas import Replica

Route = Callable[[Sequence[Replica], float, random.Random], Replica]


def fewest_requests(replicas: Sequence[Replica], now: float, draw: random.Random) -> Replica:
    """Of two random replicas the one with fewer requests (Mitzenmacher 2001): Ray Serve's own way."""
    one, other = _two(replicas, draw)
    return one if one.num_ongoing <= other.num_ongoing else other


def least_work(replicas: Sequence[Replica], now: float, draw: random.Random) -> Replica:
    """Of two random replicas the one with fewer seconds of work: the one with the shorter predicted wait."""
    one, other = _two(replicas, draw)
    return one if one.demand(now).work_s <= other.demand(now).work_s else other


ROUTES: dict[str, Route] = {"requests": fewest_requests, "work": least_work}


def _two(replicas: Sequence[Replica], draw: random.Random) -> tuple[Replica, Replica]:
    # random.sample takes five times as long.
    first, second = int(draw.random() * len(replicas)), int(draw.random() * (len(replicas) - 1))
    if len(replicas) == 1:
        second = 0
    elif second >= first:
        second += 1
    return replicas[first], replicas[second]
