"""Leases: one owner at a time, among real threads and processes; a lost one writes nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Barrier
from typing import IO

import pytest
from sqlalchemy import Engine

from core.errors import LeaseLost
from core.training import JobStatus, Progress
from store.adapters import Adapters
from store.jobs import Jobs
from store.keys import new_id
from tests.fakes import VirtualClock
from tests.store.records import at_work, queue, result_of

ROOT = Path(__file__).resolve().parents[2]
NUM_CLAIMERS = 8

WRITES: dict[str, Callable[[Jobs, str, str], object]] = {
    "renew": lambda jobs, job_id, owner: jobs.renew(job_id, owner, 15.0),
    "start": lambda jobs, job_id, owner: jobs.start(job_id, owner),
    "stage": lambda jobs, job_id, owner: jobs.stage(job_id, owner, "resting"),
    "progress": lambda jobs, job_id, owner: jobs.progress(job_id, owner, Progress(step=9, num_steps=100)),
    "sample": lambda jobs, job_id, owner: jobs.sample(job_id, owner, 1),
    "release": lambda jobs, job_id, owner: jobs.release(job_id, owner),
    "succeed": lambda jobs, job_id, owner: jobs.succeed(job_id, owner, result_of(jobs.get(job_id, "ada"))),
    "fail": lambda jobs, job_id, owner: jobs.fail(job_id, owner, "internal_error", "no"),
    "finish_canceled": lambda jobs, job_id, owner: jobs.finish_canceled(job_id, owner),
}


@contextmanager
def claimer(url: str, now: float, what: str) -> Generator[subprocess.Popen[str]]:
    """Another process that is about to claim."""
    command = [sys.executable, "-m", "tests.store.claimer", url, str(now), what]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def go(process: subprocess.Popen[str]) -> None:
    pipe(process.stdin).write("go\n")
    pipe(process.stdin).flush()


def test_each_job_is_claimed_once_among_threads(jobs: Jobs) -> None:
    ids = {queue(jobs, f"member{number}").job_id for number in range(24)}
    together = Barrier(NUM_CLAIMERS)

    def drain() -> list[str]:
        together.wait()
        claimed = []
        while (job := jobs.claim(new_id("own"), 15.0)) is not None:
            claimed.append(job.job_id)
        return claimed

    with ThreadPoolExecutor(NUM_CLAIMERS) as threads:
        runs = [threads.submit(drain) for _ in range(NUM_CLAIMERS)]
    claimed = [job_id for run in runs for job_id in run.result()]
    assert len(claimed) == len(ids)
    assert set(claimed) == ids


def test_each_job_is_claimed_once_among_processes(jobs: Jobs, clock: VirtualClock, url: str) -> None:
    ids = {queue(jobs, f"member{number}").job_id for number in range(24)}
    with ExitStack() as stack:
        all_of = [stack.enter_context(claimer(url, clock(), "drain")) for _ in range(NUM_CLAIMERS)]
        for process in all_of:
            assert pipe(process.stdout).readline() == "ready\n"
        for process in all_of:
            go(process)
        claimed = [line.strip() for process in all_of for line in pipe(process.stdout)]
    assert len(claimed) == len(ids)
    assert set(claimed) == ids


def test_a_killed_process_loses_its_lease_and_nothing_else(
    jobs: Jobs, clock: VirtualClock, url: str, database: Engine
) -> None:
    job = queue(jobs)
    with claimer(url, clock(), "work") as process:
        assert pipe(process.stdout).readline() == "ready\n"
        go(process)
        for step in (1, 2, 3):
            assert pipe(process.stdout).readline() == f"{step}\n"
        # It is writing the next steps at this very moment.
        process.kill()
        process.wait()
    left = jobs.get(job.job_id, "ada")
    assert left.status is JobStatus.RUNNING
    assert left.progress.step >= 3
    events = jobs.events(job.job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[-1].data["step"] == left.progress.step

    assert jobs.claim("own_2", 15.0) is None
    clock.advance(15.0)
    taken = jobs.claim("own_2", 15.0)
    assert taken is not None
    assert (taken.job_id, taken.num_attempts, taken.progress) == (job.job_id, 2, left.progress)
    jobs.start(job.job_id, "own_2")
    assert jobs.succeed(job.job_id, "own_2", result_of(job)).status is JobStatus.SUCCEEDED
    events = jobs.events(job.job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    with closing(sqlite3.connect(str(database.url.database))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("write", WRITES)
def test_a_lost_lease_writes_nothing(jobs: Jobs, adapters: Adapters, clock: VirtualClock, write: str) -> None:
    job = at_work(jobs)
    clock.advance(15.0)
    assert jobs.claim("own_2", 15.0) is not None
    before, events = jobs.get(job.job_id, "ada"), jobs.events(job.job_id)
    for owner in ("own_1", "nobody"):
        with pytest.raises(LeaseLost):
            WRITES[write](jobs, job.job_id, owner)
    assert jobs.get(job.job_id, "ada") == before
    assert jobs.events(job.job_id) == events
    assert adapters.count("ada") == 0
    WRITES[write](jobs, job.job_id, "own_2")


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("end", ["succeed", "fail", "finish_canceled"])
def test_a_final_job_stays_as_it_is(jobs: Jobs, clock: VirtualClock, write: str, end: str) -> None:
    job = at_work(jobs)
    WRITES[end](jobs, job.job_id, "own_1")
    over, events = jobs.get(job.job_id, "ada"), jobs.events(job.job_id)
    clock.advance(100.0)
    with pytest.raises(LeaseLost):
        WRITES[write](jobs, job.job_id, "own_1")
    assert jobs.claim("own_2", 15.0) is None
    assert jobs.request_cancel(job.job_id, "ada") == over
    assert jobs.get(job.job_id, "ada") == over
    assert jobs.events(job.job_id) == events


def test_a_heartbeat_keeps_the_lease(jobs: Jobs, clock: VirtualClock) -> None:
    job = at_work(jobs)
    for _ in range(5):
        clock.advance(14.0)
        assert jobs.claim("own_2", 15.0) is None
        jobs.renew(job.job_id, "own_1", 15.0)


def test_a_late_heartbeat_is_heard_while_nobody_took_over(jobs: Jobs, clock: VirtualClock) -> None:
    job = at_work(jobs)
    clock.advance(100.0)
    jobs.renew(job.job_id, "own_1", 15.0)
    assert jobs.claim("own_2", 15.0) is None


def test_a_write_for_a_job_that_was_deleted_is_refused(jobs: Jobs) -> None:
    with pytest.raises(LeaseLost):
        jobs.renew("job_0", "own_1", 15.0)
