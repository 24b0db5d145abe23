"""Leases on jobs: who may write, and whose turn is next. Knows rows and times, not what a training is.

Whatever is written of a job that somebody works on goes through :func:`write_held`, which names the owner
in the same statement: an owner who lost the lease writes nothing any more.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, or_, select, update

from core.errors import LeaseLost
from store.spells import trained_seconds
from store.tables import OPEN, jobs


def write_held(connection: Connection, job_id: str, owner: str, **values: Any) -> Row[Any]:
    """Update the row of a job that ``owner`` holds, and give back the whole row. Raises LeaseLost."""
    held = update(jobs).where(jobs.c.job_id == job_id, jobs.c.owner == owner, jobs.c.status.in_(OPEN))
    row = connection.execute(held.values({"owner": owner} | values).returning(*jobs.c)).one_or_none()
    if row is None:
        raise LeaseLost(f"{owner} does not hold the lease on {job_id}.")
    return row


def give_up(connection: Connection, job_id: str, **values: Any) -> Row[Any]:
    """Update the row of a job that is not over, which nobody holds from now on, and give back the row.

    For a transaction that has the row locked already.
    """
    nobodys = {"owner": None, "lease_expires_at": None, "spell_id": None}
    left = update(jobs).where(jobs.c.job_id == job_id, jobs.c.status.in_(OPEN))
    return connection.execute(left.values(nobodys | values).returning(*jobs.c)).one()


def claim_next(connection: Connection, owner: str, lease_s: float, now: datetime) -> Row[Any] | None:
    """Lease the job whose turn it is to ``owner``, and give back its row; None where nothing waits.

    Rows that another transaction is claiming are passed over where the database can (PostgreSQL).
    """
    turn = in_turn(now).limit(1).with_for_update(of=jobs, skip_locked=True)
    job_id = connection.execute(turn).scalars().first()
    if job_id is None:
        return None
    taken = (
        update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(
            owner=owner,
            lease_expires_at=now + timedelta(seconds=lease_s),
            num_attempts=jobs.c.num_attempts + 1,
            spell_id=None,
        )
    )
    return connection.execute(taken.returning(*jobs.c)).one()


def in_turn(now: datetime) -> Select[str]:
    """The ids of the jobs nobody works on, in the order in which they will be claimed.

    First the member who trained the fewest seconds in the last 24 hours, then the oldest job.
    """
    return (
        select(jobs.c.job_id)
        .where(_is_free(now))
        .order_by(trained_seconds(jobs.c.user_id, now.timestamp()), jobs.c.created_at, jobs.c.job_id)
    )


def is_leased(now: datetime) -> ColumnElement[bool]:
    """Somebody works on the job: its lease has not run out."""
    return and_(jobs.c.status.in_(OPEN), jobs.c.owner.is_not(None), jobs.c.lease_expires_at > now)


def _is_free(now: datetime) -> ColumnElement[bool]:
    return and_(jobs.c.status.in_(OPEN), or_(jobs.c.owner.is_(None), jobs.c.lease_expires_at <= now))
