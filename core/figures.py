"""Counts, levels and samples of a process, kept until whoever exports them takes them.

Knows names and labels; nothing of Ray, Prometheus and threads: one event loop or one thread writes and takes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

# What nobody takes is forgotten from here on.
_MAX_SAMPLES = 20_000


class Kind(StrEnum):
    """How Prometheus adds a figure up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A metric. ``labels`` have few values each: never a member, a prompt or the id of anything.

    ``bounds`` are a histogram's upper bounds, above 0. Exporters add what Prometheus adds (``_total``).
    """

    name: str
    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


Series = tuple[Figure, tuple[str, ...]]


class Taken(NamedTuple):
    """What happened since the last time: increments, the newest levels, and every sample."""

    counts: dict[Series, float]
    levels: dict[Series, float]
    samples: list[tuple[Series, float]]


class Figures:
    """Writing costs about a microsecond, so it may stand in the way of requests."""

    def __init__(self) -> None:
        self._counts: dict[Series, float] = {}
        self._levels: dict[Series, float] = {}
        self._samples: deque[tuple[Series, float]] = deque(maxlen=_MAX_SAMPLES)

    def count(self, figure: Figure, *labels: str, by: float = 1.0) -> None:
        """``by`` more of a counter; 0 makes it known that there were none yet."""
        series = figure, labels
        self._counts[series] = self._counts.get(series, 0.0) + by

    def level(self, figure: Figure, *labels: str, at: float) -> None:
        """Where a gauge stands."""
        self._levels[figure, labels] = at

    def sample(self, figure: Figure, *labels: str, of: float) -> None:
        """One observation of a histogram."""
        self._samples.append(((figure, labels), of))

    def take(self) -> Taken:
        """Everything since the last time."""
        taken = Taken(self._counts, self._levels, list(self._samples))
        self._counts, self._levels = {}, {}
        self._samples.clear()
        return taken
