from __future__ import annotations

import asyncio

import pytest

from core.errors import InvalidRequest
from core.training import Job, JobStatus
from deployments.training import attempt as attempts
from deployments.training.attempt import STARTING, WAITING, Attempt, spec_of
from deployments.training.task import TaskLost
from store import keys
from tests.deployments.training import workshop as small
from tests.deployments.training.threads import ThreadRuns, workshop
from tests.deployments.training.workshop import LEASE_S, OWNER, Shelves, SmallPainter, claimed


def now(shelves: Shelves, job: Job) -> Job:
    return shelves.jobs.get(job.job_id, job.user_id)


def stages(shelves: Shelves, job: Job) -> list[str]:
    return [event.data["stage"] for event in shelves.jobs.events(job.job_id) if "stage" in event.data]


async def test_a_job_comes_to_its_end(shelves: Shelves) -> None:
    job, _ = claimed(shelves, small.spec_of(num_class_pictures=2))
    runs = ThreadRuns(shelves)
    await Attempt(workshop(shelves, runs), job, OWNER).carry()
    assert now(shelves, job).status is JobStatus.SUCCEEDED
    assert stages(shelves, job)[:3] == ["drawing class pictures", STARTING, "reading the photos"]
    assert len(runs.orders) == 1
    assert runs.orders[0].num_photos == 3


def test_the_specification_survives_the_store(shelves: Shelves) -> None:
    spec = small.spec_of(keep_photos=True, train_text_encoder=True)
    job, _ = claimed(shelves, spec)
    assert spec_of(job) == spec


async def test_a_cancel_ends_a_running_training(shelves: Shelves) -> None:
    job, _ = claimed(shelves)
    runs = ThreadRuns(shelves, closed_at=4)
    carrying = asyncio.create_task(Attempt(workshop(shelves, runs), job, OWNER).carry())
    await asyncio.to_thread(runs.reached.wait)
    assert not shelves.jobs.request_cancel(job.job_id, "ada").status.final
    runs.door.set()
    await carrying
    assert now(shelves, job).status is JobStatus.CANCELED
    assert now(shelves, job).progress.step == 4
    assert not runs.runs[0].stopped
    assert shelves.blobs.keys("jobs") == shelves.blobs.keys("adapters") == []


async def test_a_training_that_does_not_heed_a_cancel_is_stopped(
    shelves: Shelves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_STOP_S", 0.0)
    job, _ = claimed(shelves)
    runs = ThreadRuns(shelves, closed_at=4)
    attempt = Attempt(workshop(shelves, runs), job, OWNER)
    carrying = asyncio.create_task(attempt.carry())
    await asyncio.to_thread(runs.reached.wait)
    shelves.jobs.request_cancel(job.job_id, "ada")
    attempt.look()
    await carrying
    assert runs.runs[0].stopped
    assert now(shelves, job).status is JobStatus.CANCELED


async def test_a_job_without_a_node_says_so_and_can_be_cancelled(
    shelves: Shelves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_SILENCE_S", 0.01)
    job, _ = claimed(shelves)
    runs = ThreadRuns(shelves, num_nodes=0)
    attempt = Attempt(workshop(shelves, runs), job, OWNER)
    carrying = asyncio.create_task(attempt.carry())
    while now(shelves, job).stage != WAITING:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert shelves.jobs.request_cancel(job.job_id, "ada").status is JobStatus.CANCELED
    attempt.look()
    await carrying
    assert runs.runs[0].stopped
    assert stages(shelves, job) == [STARTING, WAITING]
    assert shelves.blobs.keys("jobs") == []


async def test_a_task_lost_for_good_fails_the_job(shelves: Shelves) -> None:
    job, _ = claimed(shelves)
    await Attempt(workshop(shelves, ThreadRuns(shelves, loss=TaskLost("gone"))), job, OWNER).carry()
    assert now(shelves, job).error == {"code": "training_failed", "detail": "gone"}
    assert shelves.blobs.keys("jobs") == []


async def test_class_pictures_that_cannot_be_drawn_fail_the_job(shelves: Shelves) -> None:
    job, _ = claimed(shelves, small.spec_of(num_class_pictures=2))
    shop = workshop(shelves, ThreadRuns(shelves), SmallPainter(InvalidRequest("no such word")))
    await Attempt(shop, job, OWNER).carry()
    assert now(shelves, job).error == {"code": "invalid_request", "detail": "no such word"}


async def test_whoever_lost_the_lease_stops_its_task(shelves: Shelves) -> None:
    job, _ = claimed(shelves)
    runs = ThreadRuns(shelves, closed_at=4)
    attempt = Attempt(workshop(shelves, runs), job, OWNER)
    carrying = asyncio.create_task(attempt.carry())
    await asyncio.to_thread(runs.reached.wait)
    attempt.release()
    assert shelves.jobs.claim("own_2", LEASE_S) is not None
    attempt.look()
    await carrying
    assert runs.runs[0].stopped
    assert not now(shelves, job).status.final
    assert len(shelves.blobs.keys(keys.photos(job.job_id))) == 3


async def test_a_job_that_ends_every_owner_is_given_up(shelves: Shelves) -> None:
    claimed(shelves)
    for owner in ("own_2", "own_3", "own_4", "own_5"):
        shelves.jobs.release(shelves.jobs.list("ada")[0].job_id, shelves_owner(owner))
        job = shelves.jobs.claim(owner, LEASE_S)
    assert job is not None
    await Attempt(workshop(shelves, ThreadRuns(shelves)), job, "own_5").carry()
    assert now(shelves, job).error == {
        "code": "training_failed",
        "detail": "The training was interrupted 4 times.",
    }


def shelves_owner(successor: str) -> str:
    return f"own_{int(successor[-1]) - 1}"


async def test_a_cancel_outlives_its_owner(shelves: Shelves) -> None:
    job, _ = claimed(shelves)
    shelves.jobs.start(job.job_id, OWNER)
    shelves.jobs.renew(job.job_id, OWNER, 60)
    shelves.jobs.request_cancel(job.job_id, "ada")
    shelves.jobs.renew(job.job_id, OWNER, -1)
    taken = shelves.jobs.claim("own_2", LEASE_S)
    assert taken is not None
    runs = ThreadRuns(shelves)
    await Attempt(workshop(shelves, runs), taken, "own_2").carry()
    assert now(shelves, job).status is JobStatus.CANCELED
    assert runs.orders == []
    assert shelves.blobs.keys("jobs") == []
