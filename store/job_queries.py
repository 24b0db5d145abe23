"""Jobs as they are read: rows and specifications turned into records and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from core.errors import Conflict, NotFound, QueueFull
from core.training import Job, JobStatus, Progress, TrainingSpec
from store.leases import in_turn, is_leased
from store.tables import OPEN, jobs

QUEUE_FULL_RETRY_S = 60.0

_AS_THEY_ARE = (
    "job_id",
    "user_id",
    "adapter_id",
    "stage",
    "spec",
    "num_photos",
    "error",
    "cancel_requested",
    "num_attempts",
    "created_at",
    "started_at",
    "ended_at",
    "predicted_finish_at",
)


def spec_as_json(spec: TrainingSpec) -> dict[str, Any]:
    """A specification as a job keeps it: all but its photos."""
    members = {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if field.name not in ("photos", "options")
    }
    return members | {"options": dataclasses.asdict(spec.options)}


def job_of(row: Row[Any]) -> Job:
    """The record of a row of the table."""
    return Job(
        status=JobStatus(row.status),
        progress=Progress(step=row.step, num_steps=row.num_steps, loss=row.loss),
        warnings=tuple(row.warnings),
        **{name: getattr(row, name) for name in _AS_THEY_ARE},
    )


def new_row(spec: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """The row of a job that is queued now."""
    return values | {
        "spec": dict(spec),
        "model_id": spec["model_id"],
        "num_steps": spec["options"]["num_steps"],
        "status": JobStatus.QUEUED,
        "stage": "queued",
    }


def check_queue(connection: Connection, max_queued: int) -> None:
    """Raises QueueFull when more than ``max_queued`` jobs wait, the new one among them."""
    waiting = select(func.count()).select_from(jobs).where(jobs.c.status == JobStatus.QUEUED)
    if (connection.scalar(waiting) or 0) > max_queued:
        raise QueueFull(
            "Too many trainings wait already.", limit=max_queued, retry_after_s=QUEUE_FULL_RETRY_S
        )


def conflict(connection: Connection, user_id: str) -> Conflict:
    """Why a member's job could not be added."""
    still = select(jobs.c.job_id).where(jobs.c.user_id == user_id, jobs.c.status.in_(OPEN))
    job_id = connection.scalar(still)
    if job_id is None:
        return Conflict("There is a job of this id already, or another has just ended: try again.")
    return Conflict(f"A training of yours is under way: {job_id}.", field="job_id", limit=job_id)


def find_one(connection: Connection, *conditions: ColumnElement[bool], lock: bool = False) -> Job:
    """The one job that meets the conditions, with ``lock`` kept from others' writes. Raises NotFound."""
    query = select(jobs).where(*conditions)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound("There is no such job.")
    return job_of(row)


def ahead_of(connection: Connection, job_id: str, now: datetime) -> list[Job]:
    """See :meth:`store.jobs.Jobs.ahead_of`."""
    waiting = list(connection.execute(in_turn(now)).scalars())
    if job_id not in waiting:
        return []
    before = waiting[: waiting.index(job_id)]
    at_work = connection.execute(select(jobs).where(is_leased(now)).order_by(jobs.c.created_at))
    rows = {row.job_id: row for row in connection.execute(select(jobs).where(jobs.c.job_id.in_(before)))}
    return [job_of(row) for row in at_work] + [job_of(rows[each]) for each in before]
