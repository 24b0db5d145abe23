"""Jobs and adapters for the tests of the store. Imports no torch: other processes use it too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from core.training import Adapter, Job, TrainingOptions, TrainingSpec
from store.job_queries import spec_as_json
from store.jobs import Jobs
from store.keys import new_id

OPTIONS = TrainingOptions(num_steps=100, rank=8, alpha=8.0, learning_rate=1e-4, batch_size=2)


def training_spec(user_id: str = "ada", model_id: str = "mini", name: str = "Me") -> TrainingSpec:
    return TrainingSpec(
        request_id=new_id("req"),
        user_id=user_id,
        model_id=model_id,
        name=name,
        subject="person",
        trigger="sks",
        photos=(b"a", b"b", b"c"),
        options=OPTIONS,
    )


def queue(jobs: Jobs, user_id: str = "ada", *, name: str = "Me", **values: Any) -> Job:
    """A new job of the member."""
    asked: dict[str, Any] = {
        "job_id": new_id("job"),
        "adapter_id": new_id("adp"),
        "num_photos": 3,
        "max_queued": 100,
    }
    spec = spec_as_json(training_spec(user_id, name=name))
    return jobs.create(spec, user_id=user_id, **(asked | values))


def at_work(jobs: Jobs, user_id: str = "ada", owner: str = "own_1", lease_s: float = 15.0) -> Job:
    """A job that ``owner`` has just started."""
    job = queue(jobs, user_id)
    claimed = jobs.claim(owner, lease_s)
    assert claimed is not None
    assert claimed.job_id == job.job_id
    return jobs.start(job.job_id, owner)


def adapter(
    user_id: str = "ada", adapter_id: str | None = None, second: int = 0, name: str = "Me"
) -> Adapter:
    return Adapter(
        adapter_id=adapter_id or new_id("adp"),
        user_id=user_id,
        name=name,
        model_id="mini",
        subject="person",
        trigger="sks",
        rank=8,
        alpha=8.0,
        num_steps=100,
        has_text_encoder=False,
        origin="trained",
        sha256="0" * 64,
        num_bytes=1_000,
        num_samples=2,
        created_at=datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC),
    )


def result_of(job: Job) -> Adapter:
    """What the job makes."""
    return adapter(job.user_id, job.adapter_id)
