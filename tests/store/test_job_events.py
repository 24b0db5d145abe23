"""Events: numbered without gaps, also when many threads write."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

from core.training import JobEventKind, Progress
from store.jobs import Jobs
from tests.fakes import VirtualClock
from tests.store.records import at_work, queue, result_of


def test_a_life_in_events(jobs: Jobs, clock: VirtualClock) -> None:
    job = queue(jobs, warnings=["two photos are the same"])
    jobs.claim("own_1", 15.0)
    jobs.start(job.job_id, "own_1")
    jobs.stage(job.job_id, "own_1", "drawing class pictures")
    clock.advance(1.0)
    jobs.progress(job.job_id, "own_1", Progress(step=1, num_steps=100, loss=0.5))
    jobs.sample(job.job_id, "own_1", 0, {"step": 1})
    jobs.succeed(job.job_id, "own_1", result_of(job))
    events = jobs.events(job.job_id)
    assert [(event.kind, dict(event.data)) for event in events] == [
        (JobEventKind.QUEUED, {}),
        (JobEventKind.WARNING, {"detail": "two photos are the same"}),
        (JobEventKind.STAGE, {"stage": "starting"}),
        (JobEventKind.STAGE, {"stage": "drawing class pictures"}),
        (
            JobEventKind.PROGRESS,
            {"step": 1, "num_steps": 100, "loss": 0.5, "predicted_finish_at": None},
        ),
        (JobEventKind.SAMPLE, {"number": 0, "step": 1}),
        (JobEventKind.SUCCEEDED, {"adapter_id": job.adapter_id}),
    ]
    assert [event.number for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert {event.job_id for event in events} == {job.job_id}
    assert events[4].at.timestamp() == clock()
    assert (events[4].at - events[3].at).total_seconds() == 1.0
    assert jobs.events(job.job_id, after=5) == events[5:]
    assert jobs.events(job.job_id, after=7) == []


def test_numbers_have_no_gaps_when_many_write_at_once(jobs: Jobs) -> None:
    job = at_work(jobs)
    other = queue(jobs, "bob")
    with ThreadPoolExecutor(8) as threads:
        for number in range(40):
            threads.submit(jobs.sample, job.job_id, "own_1", number)
    assert [event.number for event in jobs.events(job.job_id)] == list(range(1, 43))
    samples = {event.data["number"] for event in jobs.events(job.job_id, after=2)}
    assert samples == set(range(40))
    assert [event.number for event in jobs.events(other.job_id)] == [1]


def test_a_loss_that_is_not_a_number_does_not_become_broken_json(jobs: Jobs) -> None:
    job = at_work(jobs)
    jobs.progress(job.job_id, "own_1", Progress(step=1, num_steps=100, loss=math.nan))
    event = jobs.events(job.job_id)[-1]
    assert json.loads(json.dumps(dict(event.data), allow_nan=False))["loss"] is None
    assert jobs.get(job.job_id, "ada").progress == Progress(step=1, num_steps=100)
