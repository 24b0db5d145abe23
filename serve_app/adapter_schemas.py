"""The JSON shapes of adapters and of the jobs that make them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from core.training import Adapter, AdapterFormat, Job, JobStatus

ADAPTERS = "/v1/adapters"
JOBS = "/v1/jobs"


class AdapterEntry(BaseModel):
    """A finished adapter."""

    id: str
    object: Literal["adapter"] = "adapter"
    name: str
    model: str = Field(description="The only model that it acts on.")
    subject: str
    trigger: str
    prompt_words: str = Field(description="What prompts call its subject: the trigger before the class.")
    rank: int
    alpha: float
    num_steps: int | None = Field(description="Null where an imported file does not say.")
    has_text_encoder: bool = Field(description="Whether it changes the text encoder as well as the UNet.")
    origin: Literal["trained", "imported"]
    sha256: str = Field(description="Of the file in PEFT layout.")
    num_bytes: int = Field(description="Of the file in PEFT layout.")
    created_at: datetime
    samples: list[str] = Field(description="Addresses of pictures that were drawn while it was trained.")
    links: dict[str, str]

    @classmethod
    def of(cls, adapter: Adapter) -> AdapterEntry:
        address = f"{ADAPTERS}/{adapter.adapter_id}"
        return cls(
            id=adapter.adapter_id,
            model=adapter.model_id,
            prompt_words=f"{adapter.trigger} {adapter.subject}",
            samples=[sample_address(adapter.adapter_id, number + 1) for number in range(adapter.num_samples)],
            links={
                "self": address,
                **{layout.value: f"{address}/file?format={layout}" for layout in AdapterFormat},
            },
            **{name: getattr(adapter, name) for name in cls.model_fields if hasattr(adapter, name)},
        )


class AdapterList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AdapterEntry]


class JobProgress(BaseModel):
    step: int
    num_steps: int
    loss: float | None = Field(description="The mean since the last report.")


class JobError(BaseModel):
    """Why a job failed, in words that a problem would have had."""

    code: str
    detail: str


class JobEntry(BaseModel):
    """A training."""

    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    stage: str = Field(description="What is going on, in a word or two.")
    adapter_id: str = Field(description="The id of the adapter, which is there once the job has succeeded.")
    name: str
    model: str
    subject: str
    trigger: str
    num_photos: int
    keep_photos: bool
    options: dict[str, Any] = Field(description="How it is trained, with every default filled in.")
    progress: JobProgress
    predicted_finish_at: datetime | None = Field(description="Null where nothing is known yet.")
    predicted_finish_s: float | None = Field(description="Seconds from now; null as above and at the end.")
    warnings: list[str] = Field(description="About the photos.")
    error: JobError | None = Field(description="Of a job that has failed.")
    cancel_requested: bool
    num_attempts: int = Field(description="More than 1 after a worker was lost; it goes on where it was.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job, now: datetime) -> JobEntry:
        spec: Mapping[str, Any] = job.spec
        address = f"{JOBS}/{job.job_id}"
        links = {"self": address, "events": f"{address}/events"}
        if not job.status.final:
            links["cancel"] = f"{address}/cancel"
        if job.status is JobStatus.SUCCEEDED:
            links["adapter"] = f"{ADAPTERS}/{job.adapter_id}"
        finish = None if job.status.final else job.predicted_finish_at
        return cls(
            id=job.job_id,
            status=job.status,
            stage=job.stage,
            adapter_id=job.adapter_id,
            name=spec["name"],
            model=spec["model_id"],
            subject=spec["subject"],
            trigger=spec["trigger"],
            num_photos=job.num_photos,
            keep_photos=spec["keep_photos"],
            options=dict(spec["options"]),
            progress=JobProgress(
                step=job.progress.step, num_steps=job.progress.num_steps, loss=job.progress.loss
            ),
            predicted_finish_at=finish,
            predicted_finish_s=max(0.0, (finish - now).total_seconds()) if finish else None,
            warnings=list(job.warnings),
            error=JobError(code=job.error["code"], detail=job.error["detail"]) if job.error else None,
            cancel_requested=job.cancel_requested,
            num_attempts=job.num_attempts,
            created_at=job.created_at,
            started_at=job.started_at,
            ended_at=job.ended_at,
            links=links,
        )


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobEntry]


def sample_address(adapter_id: str, number: int) -> str:
    """Where sample picture ``number`` is."""
    return f"{ADAPTERS}/{adapter_id}/samples/{number}"
