"""Finished adapters, each its member's own. Knows their records; their files lie among the blobs."""

from __future__ import annotations

import builtins
import dataclasses
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select

from core.errors import Conflict, NotFound
from core.training import Adapter, JobStatus
from store.db import forget_deleted, reading, writing
from store.tables import adapters, jobs


class Adapters:
    """The table of adapters. May be used from any thread; each method is one transaction.

    For everyone but its member an adapter does not exist.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, adapter: Adapter) -> None:
        """Keep an adapter that no job made. Raises Conflict if its id is taken, InsufficientStorage."""
        with writing(self._engine) as connection:
            known = select(adapters.c.adapter_id).where(adapters.c.adapter_id == adapter.adapter_id)
            if connection.scalar(known) is not None:
                raise Conflict("There is an adapter of this id already.", field="adapter_id")
            insert_adapter(connection, adapter)

    def get(self, adapter_id: str, user_id: str) -> Adapter:
        """Raises NotFound."""
        with reading(self._engine) as connection:
            row = connection.execute(select(adapters).where(_is(adapter_id, user_id))).one_or_none()
        if row is None:
            raise NotFound(f"There is no adapter {adapter_id!r}.")
        return _adapter_of(row)

    def find(self, ids: Iterable[str], user_id: str) -> dict[str, Adapter]:
        """Those of ``ids`` that the member has, by id."""
        wanted = (adapters.c.adapter_id.in_(set(ids))) & (adapters.c.user_id == user_id)
        with reading(self._engine) as connection:
            return {
                row.adapter_id: _adapter_of(row) for row in connection.execute(select(adapters).where(wanted))
            }

    def list(self, user_id: str, limit: int = 100) -> builtins.list[Adapter]:
        """The member's adapters, newest first."""
        query = (
            select(adapters)
            .where(adapters.c.user_id == user_id)
            .order_by(adapters.c.created_at.desc(), adapters.c.adapter_id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [_adapter_of(row) for row in connection.execute(query)]

    def count(self, user_id: str) -> int:
        """How many adapters the member has."""
        query = select(func.count()).select_from(adapters).where(adapters.c.user_id == user_id)
        with reading(self._engine) as connection:
            return connection.scalar(query) or 0

    def delete(self, adapter_id: str, user_id: str) -> None:
        """Remove an adapter with the job that made it and all of its events; the files are the caller's to
        remove, before this, as nobody can find them after it.

        A training that failed or was canceled can be removed in the same way. Raises NotFound, and
        Conflict with ``limit`` the job's id while the training is under way.
        """
        with writing(self._engine) as connection:
            theirs = (jobs.c.adapter_id == adapter_id) & (jobs.c.user_id == user_id)
            job = connection.execute(select(jobs.c.job_id, jobs.c.status).where(theirs)).one_or_none()
            if job is not None and not JobStatus(job.status).final:
                raise Conflict(
                    f"Its training is under way: cancel {job.job_id} first.", field="job_id", limit=job.job_id
                )
            found = connection.execute(delete(adapters).where(_is(adapter_id, user_id))).rowcount
            if job is None and not found:
                raise NotFound(f"There is no adapter {adapter_id!r}.")
            connection.execute(delete(jobs).where(theirs))
        forget_deleted(self._engine)


def insert_adapter(connection: Connection, adapter: Adapter) -> None:
    """Add a row within a transaction of the caller's."""
    connection.execute(insert(adapters).values(dataclasses.asdict(adapter)))


def _is(adapter_id: str, user_id: str) -> Any:
    return (adapters.c.adapter_id == adapter_id) & (adapters.c.user_id == user_id)


def _adapter_of(row: Row[Any]) -> Adapter:
    return Adapter(**row._asdict())
