"""Who trained how much of late: the order in which members are served, and predictions."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select

from core.training import Progress
from store.adapters import Adapters
from store.jobs import Jobs
from store.tables import spells
from tests.fakes import VirtualClock
from tests.store.records import at_work, queue, result_of

DAY_S = 86_400.0


def train(jobs: Jobs, clock: VirtualClock, user_id: str, seconds: float) -> None:
    """The member trains for so long."""
    job = at_work(jobs, user_id, lease_s=2.0 * seconds)
    clock.advance(seconds)
    jobs.succeed(job.job_id, "own_1", result_of(job))


def order(jobs: Jobs) -> list[str]:
    """The members in the order in which their jobs are claimed."""
    served = []
    while (job := jobs.claim("own_2", 15.0)) is not None:
        served.append(job.user_id)
    return served


def test_who_trained_least_is_first_then_the_oldest(jobs: Jobs, clock: VirtualClock) -> None:
    train(jobs, clock, "ada", 100.0)
    train(jobs, clock, "bob", 50.0)
    for user_id in ("ada", "bob", "cy", "dee"):
        clock.advance(1.0)
        queue(jobs, user_id)
    assert order(jobs) == ["cy", "dee", "bob", "ada"]


def test_only_the_last_24_hours_count(jobs: Jobs, clock: VirtualClock) -> None:
    train(jobs, clock, "ada", 1_000.0)
    clock.advance(DAY_S - 500.0)
    train(jobs, clock, "bob", 600.0)
    queue(jobs, "bob")
    queue(jobs, "ada")
    assert order(jobs) == ["ada", "bob"]


def test_a_spell_counts_for_the_part_within_24_hours(jobs: Jobs, clock: VirtualClock) -> None:
    train(jobs, clock, "ada", 1_000.0)
    clock.advance(DAY_S - 900.0)
    train(jobs, clock, "bob", 500.0)
    queue(jobs, "bob")
    queue(jobs, "ada")
    # Of ada's thousand seconds only the last 400 are less than a day ago.
    assert order(jobs) == ["ada", "bob"]


def test_deleting_an_adapter_does_not_reset_what_counts(
    jobs: Jobs, adapters: Adapters, clock: VirtualClock
) -> None:
    train(jobs, clock, "ada", 100.0)
    adapters.delete(jobs.list("ada")[0].adapter_id, "ada")
    queue(jobs, "ada")
    queue(jobs, "bob")
    assert order(jobs) == ["bob", "ada"]


def test_waiting_for_a_node_is_no_training(jobs: Jobs, clock: VirtualClock) -> None:
    job = queue(jobs, "ada")
    jobs.claim("own_1", 1_000.0)
    clock.advance(500.0)
    jobs.renew(job.job_id, "own_1", 1_000.0)
    jobs.release(job.job_id, "own_1")
    queue(jobs, "bob")
    assert order(jobs) == ["ada", "bob"]


def test_an_attempt_that_died_counts_until_its_last_heartbeat(jobs: Jobs, clock: VirtualClock) -> None:
    train(jobs, clock, "bob", 20.0)
    job = at_work(jobs, "ada")
    clock.advance(10.0)
    jobs.renew(job.job_id, "own_1", 15.0)
    clock.advance(5_000.0)
    queue(jobs, "bob")
    # Ten seconds of ada's count, not five thousand.
    assert order(jobs) == ["ada", "bob"]


def test_members_are_forgotten_once_their_time_no_longer_counts(
    jobs: Jobs, clock: VirtualClock, database: Engine
) -> None:
    train(jobs, clock, "ada", 10.0)
    clock.advance(DAY_S + 1.0)
    at_work(jobs, "bob")
    with database.connect() as connection:
        assert set(connection.scalars(select(spells.c.user_id))) == {None, "bob"}


def test_spells_go_after_thirty_days(jobs: Jobs, clock: VirtualClock, database: Engine) -> None:
    train(jobs, clock, "ada", 10.0)
    clock.advance(31 * DAY_S)
    at_work(jobs, "bob")
    with database.connect() as connection:
        assert connection.scalars(select(spells.c.user_id)).all() == ["bob"]


def test_seconds_per_step_leaves_preparation_out(jobs: Jobs, clock: VirtualClock) -> None:
    assert jobs.seconds_per_step("mini") is None
    job = at_work(jobs)
    clock.advance(300.0)
    for step in range(1, 11):
        clock.advance(2.0)
        jobs.progress(job.job_id, "own_1", Progress(step=step, num_steps=100))
    assert jobs.seconds_per_step("mini") == pytest.approx(2.0)
    assert jobs.seconds_per_step("sd15") is None


def test_seconds_per_step_follows_the_latest_attempts(jobs: Jobs, clock: VirtualClock) -> None:
    for seconds in [9.0] * 5 + [1.0] * 10:
        job = at_work(jobs)
        for step in (50, 51):
            clock.advance(seconds)
            jobs.progress(job.job_id, "own_1", Progress(step=step, num_steps=100))
        jobs.succeed(job.job_id, "own_1", result_of(job))
    assert jobs.seconds_per_step("mini") == pytest.approx(1.0)
