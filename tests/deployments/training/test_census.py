"""What the Trainer counts of jobs, from a real store under a clock that moves when told to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from core.figures import Figure, Figures, Taken
from core.training import Job, Progress
from deployments.training.attempt import WAITING
from deployments.training.census import (
    DURATION,
    ENDED,
    JOBS,
    OLDEST_QUEUED,
    STALLED,
    STEPS,
    TRAINED_S,
    WAITING_FOR_NODE,
    Census,
)
from store.db import open_database
from store.jobs import Jobs
from tests.fakes import VirtualClock
from tests.store.records import at_work, queue, result_of

OWNER = "own_1"


class Office(NamedTuple):
    """A census of jobs in a store."""

    jobs: Jobs
    clock: VirtualClock
    figures: Figures
    census: Census

    def look(self) -> Taken:
        self.census.take()
        return self.figures.take()

    def advanced(self, job: Job, step: int) -> None:
        self.jobs.progress(job.job_id, OWNER, Progress(step=step, num_steps=100))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    engine = open_database(f"sqlite:///{tmp_path / 'limner.db'}")
    clock = VirtualClock()
    clock.advance(1_800_000_000.0)
    figures = Figures()
    yield Office(Jobs(engine, clock), clock, figures, Census(engine, figures, clock))
    engine.dispose()


def level(taken: Taken, figure: Figure, *labels: str) -> float:
    return taken.levels[figure, labels]


def test_outcomes_and_steps_are_known_before_the_first_training(office: Office) -> None:
    counts = office.look().counts
    outcomes = {labels[0]: value for (figure, labels), value in counts.items() if figure is ENDED}
    assert outcomes == {"succeeded": 0, "failed": 0, "canceled": 0}
    assert counts[STEPS, ()] == 0


def test_levels_tell_who_waits_and_for_how_long(office: Office) -> None:
    taken = office.look()
    assert (level(taken, JOBS, "queued"), level(taken, OLDEST_QUEUED), level(taken, STALLED)) == (0, 0, 0)
    at_work(office.jobs, "ada")
    queue(office.jobs, "bob")
    office.clock.advance(30.0)
    queue(office.jobs, "cy")
    taken = office.look()
    assert (level(taken, JOBS, "queued"), level(taken, JOBS, "running")) == (2, 1)
    assert level(taken, OLDEST_QUEUED) == 30.0
    assert level(taken, WAITING_FOR_NODE) == 0


def test_a_task_without_a_node_is_told(office: Office) -> None:
    job = queue(office.jobs, "ada")
    office.jobs.claim(OWNER, 60.0)
    office.jobs.stage(job.job_id, OWNER, WAITING)
    assert level(office.look(), WAITING_FOR_NODE) == 1


def test_steps_count_as_they_are_made_and_the_last_ones_too(office: Office) -> None:
    job = at_work(office.jobs, "ada")
    office.advanced(job, 20)
    # What was done before the first look was its predecessor's to count.
    assert office.look().counts.get((STEPS, ()), 0) == 0
    office.advanced(job, 50)
    assert office.look().counts[STEPS, ()] == 30
    office.advanced(job, 40)
    assert office.look().counts[STEPS, ()] == 0
    office.advanced(job, 100)
    office.jobs.succeed(job.job_id, OWNER, result_of(job))
    assert office.look().counts[STEPS, ()] == 60


def test_an_end_is_counted_once_with_its_seconds(office: Office) -> None:
    job = at_work(office.jobs, "ada")
    office.look()
    office.clock.advance(40.0)
    office.jobs.succeed(job.job_id, OWNER, result_of(job))
    taken = office.look()
    assert taken.counts[ENDED, ("succeeded",)] == 1
    assert taken.counts[TRAINED_S, ("succeeded",)] == 40.0
    assert taken.samples == [((DURATION, ()), 40.0)]
    assert not office.look().counts


def test_a_failure_and_a_cancel_are_no_durations_of_trainings(office: Office) -> None:
    failing = at_work(office.jobs, "ada")
    waiting = queue(office.jobs, "bob")
    office.look()
    office.jobs.fail(failing.job_id, OWNER, "training_failed", "no")
    office.jobs.request_cancel(waiting.job_id, "bob")
    taken = office.look()
    ends = {labels[0]: value for (figure, labels), value in taken.counts.items() if figure is ENDED}
    assert ends == {"failed": 1, "canceled": 1}
    assert not taken.samples


def test_a_training_that_stands_still_shows(office: Office) -> None:
    slow, quick = at_work(office.jobs, "ada"), at_work(office.jobs, "bob")
    office.look()
    office.clock.advance(100.0)
    office.advanced(quick, 10)
    assert level(office.look(), STALLED) == 100.0
    office.jobs.stage(slow.job_id, OWNER, "loading")
    office.clock.advance(20.0)
    assert level(office.look(), STALLED) == 20.0
