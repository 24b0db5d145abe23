"""Figures reach Ray's metrics with their names, labels and values."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.util.metrics import Metric

from core.figures import Figure, Figures, Kind
from deployments.serving.meters import Meters, keep_exporting

REQUESTS = Figure("limner_test_requests", Kind.COUNTER, "", ("pipeline", "outcome"))
QUEUED = Figure("limner_test_queued", Kind.GAUGE, "")
SECONDS = Figure("limner_test_seconds", Kind.HISTOGRAM, "", ("pipeline",), (1.0, 2.0))
Recorded = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What Ray is told: outside of a cluster it keeps nothing itself."""
    told: Recorded = []
    record = Metric._record

    def listening(self: Any, value: float, tags: dict[str, str] | None = None) -> None:
        record(self, value, tags)
        told.append((self.info["name"], value, tags or {}))

    monkeypatch.setattr(Metric, "_record", listening)
    return told


def test_every_kind_reaches_ray(recorded: Recorded) -> None:
    figures, meters = Figures(), Meters()
    figures.count(REQUESTS, "inpaint", "failed", by=0)
    figures.level(QUEUED, at=3.0)
    figures.sample(SECONDS, "inpaint", of=1.5)
    meters.export(figures)
    figures.count(REQUESTS, "inpaint", "failed", by=2)
    meters.export(figures)
    labels = {"pipeline": "inpaint", "outcome": "failed"}
    assert recorded == [
        ("limner_test_requests", 0, labels),
        ("limner_test_queued", 3.0, {}),
        ("limner_test_seconds", 1.5, {"pipeline": "inpaint"}),
        ("limner_test_requests", 2, labels),
    ]


def test_labels_and_values_go_together() -> None:
    figures = Figures()
    figures.count(REQUESTS, "inpaint")
    with pytest.raises(ValueError, match="zip"):
        Meters().export(figures)


async def test_what_was_counted_last_is_exported_at_the_end(recorded: Recorded) -> None:
    figures = Figures()
    exporting = asyncio.create_task(keep_exporting(figures))
    await asyncio.sleep(0)
    figures.level(QUEUED, at=7.0)
    exporting.cancel()
    await asyncio.gather(exporting, return_exceptions=True)
    assert recorded == [("limner_test_queued", 7.0, {})]
