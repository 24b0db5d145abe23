"""What the service itself asks about all members' jobs and adapters. No route may answer with it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Engine, select

from core.training import Job
from store.db import reading
from store.job_queries import job_of
from store.tables import OPEN, adapters, jobs


def open_jobs(engine: Engine) -> list[Job]:
    """Every job that is not over, the oldest first."""
    query = select(jobs).where(jobs.c.status.in_(OPEN)).order_by(jobs.c.created_at, jobs.c.job_id)
    with reading(engine) as connection:
        return [job_of(row) for row in connection.execute(query)]


def jobs_by_id(engine: Engine, job_ids: Collection[str]) -> dict[str, Job]:
    """Those of ``job_ids`` that there are."""
    query = select(jobs).where(jobs.c.job_id.in_(job_ids))
    with reading(engine) as connection:
        return {row.job_id: job_of(row) for row in connection.execute(query)}


def adapters_in_use(engine: Engine, adapter_ids: Collection[str]) -> set[str]:
    """Those of ``adapter_ids`` that are kept, or that a job under way will make."""
    kept = select(adapters.c.adapter_id).where(adapters.c.adapter_id.in_(adapter_ids))
    coming = select(jobs.c.adapter_id).where(jobs.c.adapter_id.in_(adapter_ids), jobs.c.status.in_(OPEN))
    with reading(engine) as connection:
        return set(connection.execute(kept.union(coming)).scalars())
