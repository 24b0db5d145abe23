"""Adapters, the training that makes them, and the jobs that follow it. No torch, no HTTP, no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

MIN_PHOTOS, MAX_PHOTOS = 3, 30
MIN_RANK, MAX_RANK = 4, 64
MAX_ADAPTERS = 4
LOCAL_USER = "local"


class JobStatus(StrEnum):
    """Where a job stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)


class AdapterFormat(StrEnum):
    """Layouts of adapter files."""

    PEFT = "peft"
    KOHYA = "kohya"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How an adapter is trained (DreamBooth, Ruiz et al. 2023, with LoRA, Hu et al. 2022).

    ``num_steps`` are optimizer steps of ``batch_size`` × ``gradient_accumulation`` photos each.
    ``prior_weight`` scales the loss on ``num_class_pictures`` pictures of the subject's class, 0 for none.
    ``min_snr_gamma`` is that of Hang et al. 2023. ``sample_every`` is in steps, 0 for no sample pictures.
    ``flip`` mirrors photos at random, which spoils faces.
    """

    num_steps: int
    rank: int
    alpha: float
    learning_rate: float
    batch_size: int
    gradient_accumulation: int = 1
    train_text_encoder: bool = False
    text_encoder_learning_rate: float = 0.0
    prior_weight: float = 1.0
    num_class_pictures: int = 0
    min_snr_gamma: float = 5.0
    warmup_steps: int = 0
    flip: bool = False
    sample_every: int = 0
    checkpoint_every: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What a member asks for, validated and complete. ``photos`` are the files as they were sent.

    ``subject`` is the class ("person", "robot"), ``trigger`` the word that will mean this one of it.
    """

    request_id: str
    user_id: str
    model_id: str
    name: str
    subject: str
    trigger: str
    photos: tuple[bytes, ...]
    options: TrainingOptions
    keep_photos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSpec:
    """An adapter file that a member brings along, in PEFT, diffusers or kohya layout."""

    request_id: str
    user_id: str
    model_id: str
    name: str
    subject: str
    trigger: str
    file: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A finished adapter. ``sha256`` and ``num_bytes`` are those of its file in PEFT layout.

    ``origin`` is "trained" or "imported"; ``num_steps`` is None where the file does not say.
    """

    adapter_id: str
    user_id: str
    name: str
    model_id: str
    subject: str
    trigger: str
    rank: int
    alpha: float
    num_steps: int | None
    has_text_encoder: bool
    origin: str
    sha256: str
    num_bytes: int
    num_samples: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Training has done ``step`` of ``num_steps``; ``loss`` is the mean since the last report."""

    step: int
    num_steps: int
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training as its member sees it. Times are UTC. ``error`` has ``code`` and ``detail``.

    ``stage`` says in a word or two what is going on ("waiting for a training node"); ``warnings`` are
    about the photos. ``spec`` is the TrainingSpec without its photos, as JSON.
    """

    job_id: str
    user_id: str
    adapter_id: str
    status: JobStatus
    stage: str
    spec: Mapping[str, Any]
    num_photos: int
    progress: Progress
    warnings: tuple[str, ...] = ()
    error: Mapping[str, str] | None = None
    cancel_requested: bool = False
    num_attempts: int = 0
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    predicted_finish_at: datetime | None = None


class JobEventKind(StrEnum):
    """What happened to a job."""

    QUEUED = "queued"
    STAGE = "stage"
    PROGRESS = "progress"
    WARNING = "warning"
    SAMPLE = "sample"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        return self in (JobEventKind.SUCCEEDED, JobEventKind.FAILED, JobEventKind.CANCELED)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One event of a job; ``number`` counts from 1 within the job without gaps."""

    job_id: str
    number: int
    kind: JobEventKind
    at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)
