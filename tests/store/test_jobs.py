"""The life of a job, one transition at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.exc import IntegrityError

from core.errors import Conflict, LeaseLost, NotFound, QueueFull
from core.training import Job, JobEventKind, JobStatus, Progress
from store.adapters import Adapters
from store.job_queries import new_row, spec_as_json
from store.jobs import Jobs
from store.keys import new_id
from store.tables import jobs as table
from tests.fakes import VirtualClock
from tests.store.records import adapter, at_work, queue, result_of, training_spec

LATER = datetime(2027, 1, 15, 9, 30, 0, 250_000, tzinfo=UTC)


def test_a_queued_job_keeps_what_was_asked(jobs: Jobs, clock: VirtualClock) -> None:
    made = queue(jobs, name="Ada", warnings=["blurred"], predicted_finish_at=LATER)
    job = jobs.get(made.job_id, "ada")
    assert job == made
    assert (job.status, job.stage, job.num_photos) == (JobStatus.QUEUED, "queued", 3)
    assert (job.spec["name"], job.spec["options"]["rank"]) == ("Ada", 8)
    assert "photos" not in job.spec
    assert job.progress == Progress(step=0, num_steps=100)
    assert (job.warnings, job.predicted_finish_at) == (("blurred",), LATER)
    assert job.created_at == datetime.fromtimestamp(clock(), UTC)
    assert (job.started_at, job.ended_at, job.error, job.num_attempts) == (None, None, None, 0)
    assert jobs.find_by_adapter(job.adapter_id, "ada") == job


def test_for_others_a_job_does_not_exist(jobs: Jobs) -> None:
    job = queue(jobs)
    with pytest.raises(NotFound):
        jobs.get(job.job_id, "bob")
    with pytest.raises(NotFound):
        jobs.find_by_adapter(job.adapter_id, "bob")
    with pytest.raises(NotFound):
        jobs.request_cancel(job.job_id, "bob")
    assert jobs.list("bob") == []
    assert jobs.get(job.job_id, "ada") == job


def test_a_second_training_of_a_member_conflicts_until_the_first_is_over(jobs: Jobs) -> None:
    first = queue(jobs)
    with pytest.raises(Conflict, match=first.job_id) as refused:
        queue(jobs, max_queued=0)
    assert refused.value.limit == first.job_id
    jobs.request_cancel(first.job_id, "ada")
    second = queue(jobs)
    assert {job.job_id for job in jobs.list("ada")} == {first.job_id, second.job_id}


def test_ids_are_taken_once(jobs: Jobs) -> None:
    first = queue(jobs)
    for taken in ({"job_id": first.job_id}, {"adapter_id": first.adapter_id}):
        with pytest.raises(Conflict):
            queue(jobs, "bob", **taken)
    assert jobs.list("bob") == []


def test_one_training_per_member_among_threads(jobs: Jobs) -> None:
    together = Barrier(8)

    def ask() -> Job | str:
        together.wait()
        try:
            return queue(jobs)
        except Conflict as refused:
            return str(refused.limit)

    with ThreadPoolExecutor(8) as threads:
        answers = [run.result() for run in [threads.submit(ask) for _ in range(8)]]
    made = [answer for answer in answers if isinstance(answer, Job)]
    assert len(made) == 1
    assert [answer for answer in answers if isinstance(answer, str)] == [made[0].job_id] * 7
    assert jobs.list("ada") == made


def test_the_database_itself_refuses_a_second_training(jobs: Jobs, database: Engine) -> None:
    queue(jobs)
    spec = spec_as_json(training_spec())
    row = new_row(spec, job_id="job_2", user_id="ada", adapter_id="adp_2", num_photos=3, warnings=[])
    row["created_at"] = LATER
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(insert(table).values(row))
    with database.begin() as connection:
        connection.execute(insert(table).values(row | {"status": JobStatus.FAILED}))


def test_a_full_queue_refuses_and_keeps_nothing(jobs: Jobs) -> None:
    for number in range(3):
        queue(jobs, f"member{number}", max_queued=3)
    with pytest.raises(QueueFull) as refused:
        queue(jobs, max_queued=3)
    assert (refused.value.limit, refused.value.retry_after_s) == (3, 60.0)
    assert jobs.list("ada") == []
    claimed = jobs.claim("own_1", 15.0)
    assert claimed is not None
    jobs.start(claimed.job_id, "own_1")
    queue(jobs, max_queued=3)


def test_claim_and_start(jobs: Jobs, clock: VirtualClock) -> None:
    assert jobs.claim("own_1", 15.0) is None
    job = queue(jobs)
    claimed = jobs.claim("own_1", 15.0)
    assert claimed is not None
    assert (claimed.job_id, claimed.status, claimed.num_attempts) == (job.job_id, JobStatus.QUEUED, 1)
    clock.advance(5.0)
    started = jobs.start(job.job_id, "own_1", "cropping photos")
    assert (started.status, started.stage) == (JobStatus.RUNNING, "cropping photos")
    assert started.started_at == job.created_at + timedelta(seconds=5)
    clock.advance(60.0)
    jobs.claim("own_2", 15.0)
    assert jobs.start(job.job_id, "own_2").started_at == started.started_at


def test_progress_is_seen_by_the_member(jobs: Jobs) -> None:
    job = at_work(jobs)
    assert not jobs.progress(job.job_id, "own_1", Progress(step=7, num_steps=100, loss=0.25), LATER)
    assert not jobs.stage(job.job_id, "own_1", "drawing samples")
    seen = jobs.get(job.job_id, "ada")
    assert (seen.progress, seen.stage) == (Progress(step=7, num_steps=100, loss=0.25), "drawing samples")
    assert seen.predicted_finish_at == LATER


def test_success_brings_the_adapter_in_the_same_transaction(
    jobs: Jobs, adapters: Adapters, clock: VirtualClock
) -> None:
    job = at_work(jobs)
    clock.advance(90.0)
    done = jobs.succeed(job.job_id, "own_1", result_of(job))
    assert (done.status, done.stage) == (JobStatus.SUCCEEDED, "succeeded")
    assert done.ended_at == job.created_at + timedelta(seconds=90)
    assert adapters.get(job.adapter_id, "ada") == result_of(job)


def test_success_fails_as_a_whole(jobs: Jobs, adapters: Adapters) -> None:
    job = at_work(jobs)
    adapters.add(adapter(adapter_id=job.adapter_id))
    with pytest.raises(IntegrityError):
        jobs.succeed(job.job_id, "own_1", result_of(job))
    assert jobs.get(job.job_id, "ada").status is JobStatus.RUNNING
    assert [event.kind.final for event in jobs.events(job.job_id)] == [False, False]


def test_failure_tells_why(jobs: Jobs) -> None:
    job = at_work(jobs)
    failed = jobs.fail(job.job_id, "own_1", "generation_failed", "The loss became NaN.")
    assert failed.status is JobStatus.FAILED
    assert failed.error == {"code": "generation_failed", "detail": "The loss became NaN."}
    assert jobs.events(job.job_id)[-1].data == failed.error


def test_a_released_job_is_claimed_again_at_once(jobs: Jobs) -> None:
    job = at_work(jobs)
    back = jobs.release(job.job_id, "own_1")
    assert (back.status, back.stage, back.num_attempts) == (JobStatus.QUEUED, "queued", 1)
    with pytest.raises(LeaseLost):
        jobs.renew(job.job_id, "own_1", 15.0)
    again = jobs.claim("own_2", 15.0)
    assert again is not None
    assert again.num_attempts == 2
    assert jobs.release(job.job_id, "own_2", count_attempt=False).num_attempts == 1


def test_cancel_of_a_job_nobody_trains_is_immediate(jobs: Jobs, clock: VirtualClock) -> None:
    waiting = queue(jobs)
    canceled = jobs.request_cancel(waiting.job_id, "ada")
    assert (canceled.status, canceled.ended_at) == (JobStatus.CANCELED, canceled.created_at)
    assert jobs.claim("own_1", 15.0) is None

    claimed = queue(jobs)
    jobs.claim("own_1", 15.0)
    assert jobs.request_cancel(claimed.job_id, "ada").status is JobStatus.CANCELED
    with pytest.raises(LeaseLost):
        jobs.start(claimed.job_id, "own_1")

    dead = at_work(jobs)
    clock.advance(15.0)
    assert jobs.request_cancel(dead.job_id, "ada").status is JobStatus.CANCELED
    assert jobs.events(dead.job_id)[-1].kind is JobEventKind.CANCELED


def test_cancel_of_a_training_is_heard_by_its_owner(jobs: Jobs) -> None:
    job = at_work(jobs)
    asked = jobs.request_cancel(job.job_id, "ada")
    assert (asked.status, asked.cancel_requested) == (JobStatus.RUNNING, True)
    assert jobs.request_cancel(job.job_id, "ada") == asked
    assert jobs.renew(job.job_id, "own_1", 15.0)
    assert jobs.stage(job.job_id, "own_1", "stopping")
    assert jobs.sample(job.job_id, "own_1", 0)
    assert jobs.progress(job.job_id, "own_1", Progress(step=1, num_steps=100))
    assert jobs.finish_canceled(job.job_id, "own_1").status is JobStatus.CANCELED


def test_a_cancel_outlives_its_owner(jobs: Jobs, clock: VirtualClock) -> None:
    job = at_work(jobs)
    jobs.request_cancel(job.job_id, "ada")
    clock.advance(15.0)
    taken = jobs.claim("own_2", 15.0)
    assert taken is not None
    assert taken.cancel_requested
    assert jobs.release(job.job_id, "own_2").status is JobStatus.CANCELED


def test_jobs_are_listed_newest_first(jobs: Jobs, clock: VirtualClock) -> None:
    made = []
    for _ in range(3):
        clock.advance(1.0)
        made.append(jobs.request_cancel(queue(jobs).job_id, "ada"))
    assert jobs.list("ada") == made[::-1]
    assert jobs.list("ada", 2) == made[:0:-1]


def test_new_ids_are_accepted_everywhere(jobs: Jobs) -> None:
    job = queue(jobs, new_id("usr"), job_id=new_id("job"))
    assert jobs.get(job.job_id, job.user_id) == job
