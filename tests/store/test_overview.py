"""What the service asks about all members."""

from __future__ import annotations

from sqlalchemy import Engine

from store.adapters import Adapters
from store.jobs import Jobs
from store.overview import adapters_in_use, jobs_by_id, open_jobs
from tests.fakes import VirtualClock
from tests.store.records import adapter, at_work, queue


def test_open_jobs_are_everyones_oldest_first(jobs: Jobs, database: Engine, clock: VirtualClock) -> None:
    over = at_work(jobs, "cy")
    jobs.fail(over.job_id, "own_1", "internal_error", "no")
    working = at_work(jobs, "bob")
    clock.advance(1.0)
    waiting = queue(jobs, "ada")
    assert open_jobs(database) == [working, waiting]
    known = jobs_by_id(database, {over.job_id, waiting.job_id, "job_0"})
    assert known == {over.job_id: jobs.get(over.job_id, "cy"), waiting.job_id: waiting}


def test_adapters_in_use_are_those_kept_and_those_to_come(
    jobs: Jobs, adapters: Adapters, database: Engine
) -> None:
    kept = adapter("bob")
    adapters.add(kept)
    canceled = jobs.request_cancel(queue(jobs, "cy").job_id, "cy")
    coming = queue(jobs, "ada")
    asked = {kept.adapter_id, canceled.adapter_id, coming.adapter_id, "adp_0"}
    assert adapters_in_use(database, asked) == {kept.adapter_id, coming.adapter_id}
    assert adapters_in_use(database, set()) == set()
