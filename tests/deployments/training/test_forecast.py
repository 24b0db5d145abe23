from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from core.training import Progress
from deployments.training.forecast import Pace, finish_of, step_seconds
from tests.deployments.training.workshop import Shelves, queued

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_measured_steps_count_before_usual_ones() -> None:
    assert step_seconds(0.3, "cuda") == 0.3
    assert step_seconds(None, "cuda") < step_seconds(None, "cpu")


def test_the_pace_follows_the_steps_and_not_the_samples() -> None:
    pace = Pace(1.0)
    assert pace.remaining_s(100.0, 10, 2) == 10
    assert pace.remaining_s(103.0, 10, 2) == 20
    pace.sample_drawn()
    assert pace.remaining_s(112.0, 10, 2) == 20 + 2 * 7
    now_s = 112.0
    for _ in range(40):
        now_s += 5.0
        left = pace.remaining_s(now_s, 10, 0)
    assert 49.9 < left < 50.1


def test_a_job_waits_for_what_is_ahead(shelves: Shelves) -> None:
    alone = finish_of(NOW, 100, [], 0.5, 1)
    assert (alone - NOW).total_seconds() == 25 + 50
    begun = replace(queued(shelves), progress=Progress(step=80, num_steps=100))
    waiting = replace(begun, progress=Progress(step=0, num_steps=100))
    behind = finish_of(NOW, 100, [begun, waiting], 0.5, 1)
    assert (behind - alone).total_seconds() == 10 + 25 + 50
    beside = finish_of(NOW, 100, [begun, waiting], 0.5, 2)
    assert (beside - alone).total_seconds() == (10 + 25 + 50) / 2
