from __future__ import annotations

from core.training import JobStatus
from deployments.training.leftovers import Sweep, clear
from deployments.training.work import carry_out
from store import keys
from tests.deployments.training.workshop import OWNER, Shelves, claimed, queued, spec_of, train


def test_nothing_of_a_job_under_way_is_cleared(shelves: Shelves) -> None:
    job = queued(shelves)
    clear(shelves.blobs, job)
    Sweep(shelves.engine, shelves.blobs).sweep()
    assert len(shelves.blobs.keys("jobs")) == 3


def test_what_a_killed_process_left_of_finished_jobs_is_swept_up(shelves: Shelves) -> None:
    kept, order = claimed(shelves, spec_of(keep_photos=True, user_id="ada"))
    carry_out(order, shelves.jobs, shelves.blobs, train)
    failed, _ = claimed(shelves, spec_of(user_id="bob"))
    shelves.blobs.write(keys.sample(failed.adapter_id, 1), b"png")
    shelves.jobs.fail(failed.job_id, OWNER, "training_failed", "killed before it was cleared")
    shelves.blobs.write(keys.checkpoint(kept.job_id), b"old")
    Sweep(shelves.engine, shelves.blobs).sweep()
    assert shelves.blobs.keys("jobs") == [keys.photo(kept.job_id, number) for number in (1, 2, 3)]
    assert {key.split("/")[1] for key in shelves.blobs.keys("adapters")} == {kept.adapter_id}


def test_strays_go_the_second_time_they_are_seen(shelves: Shelves) -> None:
    sweep = Sweep(shelves.engine, shelves.blobs)
    shelves.blobs.write(keys.photo("job_unknown", 1), b"of a submission that was killed")
    shelves.blobs.write(keys.adapter_file("adp_unknown"), b"of an import that was killed")
    sweep.sweep()
    shelves.blobs.write(keys.photo("job_new", 1), b"of a submission under way")
    assert len(shelves.blobs.keys("jobs")) == 2
    sweep.sweep()
    assert shelves.blobs.keys("jobs") == [keys.photo("job_new", 1)]
    assert shelves.blobs.keys("adapters") == []


def test_samples_of_a_training_under_way_are_not_strays(shelves: Shelves) -> None:
    job, _ = claimed(shelves)
    shelves.blobs.write(keys.sample(job.adapter_id, 1), b"png")
    sweep = Sweep(shelves.engine, shelves.blobs)
    sweep.sweep()
    sweep.sweep()
    assert shelves.jobs.get(job.job_id, "ada").status is JobStatus.QUEUED
    assert shelves.blobs.keys("adapters") == [keys.sample(job.adapter_id, 1)]
