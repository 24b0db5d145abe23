"""The load test's client against the service: every kind of request is understood and foretold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.loadtest import inputs, measures
from benchmarks.loadtest.client import OK, replay
from benchmarks.loadtest.systems.limner import message_of
from benchmarks.loadtest.systems.prometheus import totals
from benchmarks.loadtest.workload import PIPELINES, Asked
from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e


async def test_requests_of_every_pipeline_are_answered_and_foretold(service: Service, tmp_path: Path) -> None:
    shown = inputs.load(tmp_path / "inputs.json")
    first = Asked(0, 0.0, "text", 0, 4, 5.0, 0, "member-00")
    asked = [
        replace(first, number=number, at=0.5 * number, pipeline=pipeline)
        for number, pipeline in enumerate(PIPELINES)
    ]
    outcomes = await replay(service.url, asked, lambda each: message_of(each, shown, {}))
    assert [(outcome.status, outcome.detail) for outcome in outcomes] == [(OK, "")] * len(PIPELINES)
    assert all(outcome.predicted_s for outcome in outcomes)
    found = measures.summary(outcomes, {each.kind: 60.0 for each in asked}, 2.0)
    assert (found["good"], found["predicted"]) == (4, 4)


def test_prometheus_tells_the_engines_work(service: Service) -> None:
    # Whatever the others have drawn before, the gauges are there from the start.
    assert "ray_limner_denoise_queued_requests" in totals(service.dashboard_url, service.token)
