"""When requests come: the gaps between them are drawn, whoever serves them. Knows no requests."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

ARRIVALS = ("poisson", "bursty")
# A gamma distribution of this shape has gaps whose variation is 1 / sqrt(shape) = 1.41 times their mean.
BURSTY_SHAPE = 0.5


def arrival_times(kind: str, rate: float, duration_s: float, draw: Random) -> Iterator[float]:
    """Seconds from the start, ``rate`` of them a second in the mean, all before ``duration_s``."""
    if kind not in ARRIVALS:
        raise ValueError(f"there are no {kind} arrivals; there are {', '.join(ARRIVALS)}")
    shape = 1.0 if kind == "poisson" else BURSTY_SHAPE
    at = draw.gammavariate(shape, 1 / (rate * shape))
    while at < duration_s:
        yield at
        at += draw.gammavariate(shape, 1 / (rate * shape))
