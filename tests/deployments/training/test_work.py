from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from core.errors import GenerationFailed, InsufficientStorage, LeaseLost
from core.training import Job, JobEventKind, JobStatus
from deployments.training.run import Reporter, TrainingInputs
from deployments.training.work import Order, Train, carry_out
from store import keys
from store.blobs import Blobs
from tests.deployments.training.workshop import (
    LEASE_S,
    OWNER,
    Shelves,
    claimed,
    order_for,
    queued,
    spec_of,
    train,
)

ROOT = Path(__file__).parents[3]


def run(shelves: Shelves, order: Order, how: Train = train) -> None:
    carry_out(order, shelves.jobs, shelves.blobs, how)


def now(shelves: Shelves, job: Job) -> Job:
    return shelves.jobs.get(job.job_id, job.user_id)


def learnt(shelves: Shelves, job: Job) -> list[int]:
    steps: list[int] = json.loads(shelves.blobs.read(keys.adapter_file(job.adapter_id)))["steps"]
    return steps


def at(step: int, act: Callable[[], object]) -> Train:
    """The training that does something in the midst of a step."""
    return partial(train, every_step=lambda seen: act() if seen == step else None)


def kinds(shelves: Shelves, job: Job) -> list[JobEventKind]:
    return [event.kind for event in shelves.jobs.events(job.job_id)]


def nothing_is_left(shelves: Shelves) -> bool:
    return not shelves.blobs.keys("jobs") and not shelves.blobs.keys("adapters")


def test_a_training_ends_in_an_adapter_and_forgets_the_photos(shelves: Shelves) -> None:
    job, order = claimed(shelves)
    run(shelves, order)
    assert now(shelves, job).status is JobStatus.SUCCEEDED
    adapter = shelves.adapters.get(job.adapter_id, "ada")
    file = shelves.blobs.read(keys.adapter_file(job.adapter_id))
    assert json.loads(file)["photos"] == ["photo 1", "photo 2", "photo 3"]
    assert (adapter.num_bytes, adapter.num_samples, adapter.rank, adapter.num_steps) == (len(file), 2, 4, 6)
    assert shelves.blobs.keys("jobs") == []
    assert kinds(shelves, job).count(JobEventKind.PROGRESS) == 6


def test_photos_are_kept_where_that_is_wished(shelves: Shelves) -> None:
    job, order = claimed(shelves, spec_of(keep_photos=True))
    run(shelves, order)
    assert shelves.blobs.keys("jobs") == [keys.photo(job.job_id, number) for number in (1, 2, 3)]


def test_every_step_says_when_the_last_will_be_done(shelves: Shelves) -> None:
    job, order = claimed(shelves)
    seconds = iter(range(1_000, 2_000, 10))
    carry_out(order, shelves.jobs, shelves.blobs, train, clock=lambda: float(next(seconds)))
    told = [event.data for event in shelves.jobs.events(job.job_id) if event.kind is JobEventKind.PROGRESS]
    # Two seconds a step as in earlier trainings, then six, as one of ten follows; a sample takes four more.
    assert told[0]["predicted_finish_at"].endswith("00:16:50+00:00")
    assert told[1]["predicted_finish_at"].endswith("00:17:14+00:00")
    assert told[2]["predicted_finish_at"].endswith("00:17:22+00:00")
    assert told[-1]["predicted_finish_at"].endswith("00:17:30+00:00")


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_cancel_takes_effect_within_the_step(shelves: Shelves, step: int) -> None:
    job, order = claimed(shelves, spec_of(keep_photos=True))
    run(shelves, order, at(step, lambda: shelves.jobs.request_cancel(job.job_id, "ada")))
    canceled = now(shelves, job)
    assert canceled.status is JobStatus.CANCELED
    assert canceled.progress.step <= step
    assert nothing_is_left(shelves)


def test_an_error_fails_the_job_without_its_own_words(shelves: Shelves) -> None:
    def failing(inputs: TrainingInputs, reporter: Reporter) -> bytes:
        raise ValueError("Ada lives in London")

    job, order = claimed(shelves, spec_of(keep_photos=True))
    run(shelves, order, failing)
    failed = now(shelves, job)
    assert failed.status is JobStatus.FAILED
    assert failed.error == {
        "code": "training_failed",
        "detail": "The training ended with an error (ValueError).",
    }
    assert nothing_is_left(shelves)


def test_an_error_of_ours_is_told_in_its_words(shelves: Shelves) -> None:
    def diverging(inputs: TrainingInputs, reporter: Reporter) -> bytes:
        raise GenerationFailed("The loss is not finite.")

    job, order = claimed(shelves)
    run(shelves, order, diverging)
    assert now(shelves, job).error == {"code": "generation_failed", "detail": "The loss is not finite."}


def test_too_little_memory_is_said_so(shelves: Shelves) -> None:
    def large(inputs: TrainingInputs, reporter: Reporter) -> bytes:
        raise MemoryError

    job, order = claimed(shelves)
    run(shelves, order, large)
    assert (now(shelves, job).error or {})["code"] == "out_of_memory"


def test_trouble_with_the_store_is_tried_again_from_the_checkpoint(shelves: Shelves) -> None:
    def trouble() -> None:
        raise OSError("unreachable")

    job, order = claimed(shelves)
    with pytest.raises(OSError, match="unreachable"):
        run(shelves, order, at(5, trouble))
    assert now(shelves, job).status is JobStatus.RUNNING
    begun: list[int] = []
    run(shelves, order, partial(train, every_step=begun.append))
    assert begun == [5, 6]
    assert learnt(shelves, job) == [1, 2, 3, 4, 5, 6]


def test_a_finished_job_is_not_run_twice(shelves: Shelves) -> None:
    job, order = claimed(shelves)
    run(shelves, order)
    shelves.blobs.write(keys.photo(job.job_id, 1), b"killed before it was deleted")
    run(shelves, order, at(1, lambda: pytest.fail("trained again")))
    assert shelves.blobs.keys("jobs") == []
    assert kinds(shelves, job).count(JobEventKind.SUCCEEDED) == 1


def test_a_file_that_was_written_is_not_trained_again(shelves: Shelves) -> None:
    job, order = claimed(shelves)
    shelves.blobs.write(keys.adapter_file(job.adapter_id), b"made before the kill")
    run(shelves, order, at(1, lambda: pytest.fail("trained again")))
    assert shelves.adapters.get(job.adapter_id, "ada").num_bytes == 20


def test_whoever_lost_the_lease_writes_nothing_more(shelves: Shelves) -> None:
    job, order = claimed(shelves)

    def taken_over() -> None:
        shelves.jobs.release(job.job_id, OWNER)
        assert shelves.jobs.claim("own_2", LEASE_S) is not None

    run(shelves, order, at(4, taken_over))
    assert not shelves.blobs.exists(keys.adapter_file(job.adapter_id))
    assert now(shelves, job).progress.step == 3
    assert len(shelves.blobs.keys(keys.photos(job.job_id))) == 3
    # Samples and checkpoints of its last step do no harm: the successor goes on from them.
    run(shelves, order_for(job, order.spec, "own_2"))
    assert learnt(shelves, job) == [1, 2, 3, 4, 5, 6]


def test_a_deleted_job_is_left_alone(shelves: Shelves) -> None:
    job, order = claimed(shelves)
    shelves.jobs.request_cancel(job.job_id, "ada")
    shelves.adapters.delete(job.adapter_id, "ada")
    run(shelves, order, at(1, lambda: pytest.fail("trained")))


class FullBlobs(Blobs):
    """No room for files whose key holds ``word``."""

    def __init__(self, url: str, word: str) -> None:
        super().__init__(url)
        self._word = word

    def write(self, key: str, data: bytes) -> None:
        if self._word in key:
            raise InsufficientStorage("The store has no room left for a file.")
        super().write(key, data)


@pytest.mark.parametrize("word", ["samples", "checkpoint"])
def test_a_training_does_without_what_finds_no_room(shelves: Shelves, tmp_path: Path, word: str) -> None:
    job, order = claimed(shelves)
    carry_out(order, shelves.jobs, FullBlobs(f"file://{tmp_path / 'blobs'}", word), train)
    assert now(shelves, job).status is JobStatus.SUCCEEDED


def test_an_adapter_that_finds_no_room_fails_the_job(shelves: Shelves, tmp_path: Path) -> None:
    job, order = claimed(shelves)
    carry_out(order, shelves.jobs, FullBlobs(f"file://{tmp_path / 'blobs'}", "adapter.safetensors"), train)
    assert (now(shelves, job).error or {})["code"] == "insufficient_storage"
    assert nothing_is_left(shelves)


def test_lost_photos_fail_the_job(shelves: Shelves) -> None:
    job, order = claimed(shelves)
    shelves.blobs.delete(keys.photo(job.job_id, 2))
    run(shelves, order)
    assert (now(shelves, job).error or {})["code"] == "photos_lost"


def test_class_pictures_are_read_unless_they_weigh_nothing(shelves: Shelves) -> None:
    for number in (1, 2, 4):
        shelves.blobs.write(keys.class_picture("mini", "woman", number), b"png")
    for prior_weight, expected in ((1.0, 3), (0.0, 0)):
        job, order = claimed(shelves, spec_of(num_class_pictures=4, prior_weight=prior_weight))
        run(shelves, order)
        file = json.loads(shelves.blobs.read(keys.adapter_file(job.adapter_id)))
        assert file["num_class_pictures"] == expected


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from deployments.training.work import carry_out
from tests.deployments.training.workshop import order_for, shelves_in, spec_of, train

folder, job_id, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
shelves = shelves_in(folder)
job = shelves.jobs.get(job_id, "ada")
die = lambda seen: os.kill(os.getpid(), signal.SIGKILL) if seen == step else None
carry_out(order_for(job, spec_of()), shelves.jobs, shelves.blobs, partial(train, every_step=die))
"""


def test_a_killed_process_loses_nothing(shelves: Shelves, tmp_path: Path) -> None:
    queued(shelves)
    job = shelves.jobs.claim(OWNER, LEASE_S)
    assert job is not None
    for step in (1, 4, 6):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), job.job_id, str(step)], cwd=ROOT, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert now(shelves, job).status is JobStatus.RUNNING
    begun: list[int] = []
    run(shelves, order_for(job, spec_of()), partial(train, every_step=begun.append))
    assert begun == [5, 6]
    assert learnt(shelves, job) == [1, 2, 3, 4, 5, 6]
    assert shelves.blobs.keys("jobs") == []
    with pytest.raises(LeaseLost):
        shelves.jobs.renew(job.job_id, OWNER, LEASE_S)
