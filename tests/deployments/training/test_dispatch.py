from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from core.training import Job, JobStatus
from deployments.training.dispatch import Dispatcher
from tests.deployments.training.threads import ThreadRuns, workshop
from tests.deployments.training.workshop import Shelves, queued, spec_of


@contextlib.asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncGenerator[Dispatcher, None]:
    """A dispatcher at work, closed at the end, and waited for with all that it began."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        task.cancel()
        dispatcher.close()
        await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)


def status(shelves: Shelves, job: Job) -> JobStatus:
    return shelves.jobs.get(job.job_id, job.user_id).status


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def test_jobs_are_carried_one_after_the_other(shelves: Shelves) -> None:
    jobs = [queued(shelves, spec_of(user_id=name)) for name in ("ada", "bob", "cleo")]
    runs = ThreadRuns(shelves)
    async with running(Dispatcher(workshop(shelves, runs))):
        await until(lambda: all(status(shelves, job) is JobStatus.SUCCEEDED for job in jobs))
    assert [order.job_id for order in runs.orders] == [job.job_id for job in jobs]


async def test_no_more_than_the_settings_say_are_carried_at_a_time(shelves: Shelves) -> None:
    for name in ("ada", "bob", "cleo"):
        queued(shelves, spec_of(user_id=name))
    runs = ThreadRuns(shelves, closed_at=2)
    async with running(Dispatcher(workshop(shelves, runs, max_concurrent=2))):
        await until(lambda: len(runs.orders) == 2)
        assert shelves.jobs.claim("another", 60) is not None
        runs.door.set()
        await until(lambda: sum(run.ended.done() for run in runs.runs) == 2)


async def test_a_job_is_found_when_it_comes(shelves: Shelves) -> None:
    async with running(Dispatcher(workshop(shelves, ThreadRuns(shelves)))) as dispatcher:
        await asyncio.sleep(0)
        job = queued(shelves)
        dispatcher.wake()
        await until(lambda: status(shelves, job).final)


async def test_a_dead_owners_job_is_resumed(shelves: Shelves) -> None:
    job = queued(shelves)
    shelves.jobs.claim("dead", 0.05)
    shelves.jobs.start(job.job_id, "dead")
    async with running(Dispatcher(workshop(shelves, ThreadRuns(shelves), lease_s=1.0))):
        await until(lambda: status(shelves, job) is JobStatus.SUCCEEDED)
    assert shelves.jobs.get(job.job_id, "ada").num_attempts == 2


async def test_what_is_under_way_at_the_end_is_given_back(shelves: Shelves) -> None:
    job = queued(shelves)
    runs = ThreadRuns(shelves, closed_at=5)
    async with running(Dispatcher(workshop(shelves, runs))) as dispatcher:
        await asyncio.to_thread(runs.reached.wait)
        dispatcher.close()
        await until(lambda: runs.runs[0].stopped)
    given_back = shelves.jobs.get(job.job_id, "ada")
    assert given_back.status is JobStatus.QUEUED
    assert given_back.num_attempts == 0
    async with running(Dispatcher(workshop(shelves, ThreadRuns(shelves)))):
        await until(lambda: status(shelves, job) is JobStatus.SUCCEEDED)


async def test_a_running_job_hears_at_once_that_it_is_another_s(shelves: Shelves) -> None:
    job = queued(shelves)
    runs = ThreadRuns(shelves, closed_at=1)
    async with running(Dispatcher(workshop(shelves, runs))) as dispatcher:
        await asyncio.to_thread(runs.reached.wait)
        dispatcher.look("job_of_nobody")
        shelves.jobs.renew(job.job_id, runs.orders[0].owner, -1)
        assert shelves.jobs.claim("another", 60) is not None
        dispatcher.look(job.job_id)
        await until(lambda: runs.runs[0].stopped)
