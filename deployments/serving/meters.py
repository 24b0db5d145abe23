"""Figures as Ray metrics, which Prometheus scrapes as ``ray_…``. Knows Ray; not what is counted."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from core.figures import Figure, Figures, Kind

EXPORT_PERIOD_S = 1.0


class Meters:
    """Ray's metrics of a process, each made when it is first needed."""

    def __init__(self) -> None:
        self._made: dict[Figure, Any] = {}

    def export(self, figures: Figures) -> None:
        """Pass on what ``figures`` took in since the last time."""
        taken = figures.take()
        for (figure, labels), increment in taken.counts.items():
            # A counter that begins at 0 lets rates see the first event; ``inc`` itself refuses 0.
            self._metric(figure)._record(increment, _tags(figure, labels))
        for (figure, labels), level in taken.levels.items():
            self._metric(figure).set(level, _tags(figure, labels))
        for (figure, labels), sample in taken.samples:
            self._metric(figure).observe(sample, _tags(figure, labels))

    def _metric(self, figure: Figure) -> Any:
        if figure not in self._made:
            self._made[figure] = _metric_of(figure)
        return self._made[figure]


async def keep_exporting(figures: Figures) -> None:
    """Export ``figures`` of this process every second, until cancelled, and once more then."""
    meters = Meters()
    try:
        while True:
            meters.export(figures)
            await asyncio.sleep(EXPORT_PERIOD_S)
    finally:
        meters.export(figures)


def _metric_of(figure: Figure) -> Counter | Gauge | Histogram:
    match figure.kind:
        case Kind.COUNTER:
            return Counter(figure.name, figure.description, figure.labels)
        case Kind.GAUGE:
            return Gauge(figure.name, figure.description, figure.labels)
        case Kind.HISTOGRAM:
            return Histogram(figure.name, figure.description, list(figure.bounds), figure.labels)


def _tags(figure: Figure, labels: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(figure.labels, labels, strict=True))
