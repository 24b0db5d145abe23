"""Events of jobs: numbered from 1 without gaps, in the transaction that makes them true."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from core.training import JobEvent, JobEventKind
from store.tables import job_events, jobs


def append(
    connection: Connection,
    job_id: str,
    kind: JobEventKind,
    at: datetime,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Add an event. The count lies in the job's row, which is locked from here to the transaction's end."""
    counted = update(jobs).where(jobs.c.job_id == job_id).values(num_events=jobs.c.num_events + 1)
    number = connection.execute(counted.returning(jobs.c.num_events)).scalar_one()
    connection.execute(
        insert(job_events).values(job_id=job_id, number=number, kind=kind.value, at=at, data=dict(data or {}))
    )


def events_after(connection: Connection, job_id: str, after: int) -> list[JobEvent]:
    """The events of a job with numbers above ``after``, in order."""
    query = (
        select(job_events)
        .where(job_events.c.job_id == job_id, job_events.c.number > after)
        .order_by(job_events.c.number)
    )
    return [
        JobEvent(job_id=row.job_id, number=row.number, kind=JobEventKind(row.kind), at=row.at, data=row.data)
        for row in connection.execute(query)
    ]
