"""Jobs: rows that are leased to whoever works on them. Knows their life from queued to a final state.

A job is queued, then running, then succeeded, failed or canceled for ever. Who claims it holds it as long
as the lease is renewed; a job whose lease ran out is claimed again, and its former owner can write no more.
"""

from __future__ import annotations

import builtins
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from core.training import Adapter, Job, JobEvent, JobEventKind, JobStatus, Progress
from store import job_queries, spells
from store.adapters import insert_adapter
from store.db import reading, writing
from store.job_events import append, events_after
from store.job_queries import find_one, job_of
from store.leases import claim_next, give_up, is_leased, write_held
from store.tables import jobs


class Jobs:
    """The table of jobs. May be used from any thread and process; each method is one transaction.

    ``clock`` gives seconds since the epoch. ``owner`` names one claim: make a new one for each (``new_id``),
    so that an attempt given up for dead cannot pass for its successor. Methods that name an owner raise
    LeaseLost once the job is another's or over, and write nothing then. All that write may raise
    InsufficientStorage.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def create(
        self,
        spec: Mapping[str, Any],
        *,
        job_id: str,
        user_id: str,
        adapter_id: str,
        num_photos: int,
        warnings: Sequence[str] = (),
        predicted_finish_at: datetime | None = None,
        max_queued: int,
    ) -> Job:
        """Queue a job. ``spec`` is :func:`store.job_queries.spec_as_json` of the TrainingSpec.

        Raises Conflict, with ``limit`` the id of the member's job that is not over yet, and QueueFull when
        ``max_queued`` jobs wait already.
        """
        row = job_queries.new_row(
            spec,
            job_id=job_id,
            user_id=user_id,
            adapter_id=adapter_id,
            num_photos=num_photos,
            warnings=list(warnings),
            predicted_finish_at=predicted_finish_at,
            created_at=self._now(),
        )
        try:
            with writing(self._engine) as connection:
                made = connection.execute(insert(jobs).values(row).returning(*jobs.c)).one()
                job_queries.check_queue(connection, max_queued)
                append(connection, job_id, JobEventKind.QUEUED, row["created_at"])
                for warning in warnings:
                    append(connection, job_id, JobEventKind.WARNING, row["created_at"], {"detail": warning})
        except IntegrityError as error:
            with reading(self._engine) as connection:
                raise job_queries.conflict(connection, user_id) from error
        return job_of(made)

    def get(self, job_id: str, user_id: str) -> Job:
        """Raises NotFound, also for a job of another member."""
        with reading(self._engine) as connection:
            return find_one(connection, jobs.c.job_id == job_id, jobs.c.user_id == user_id)

    def find_by_adapter(self, adapter_id: str, user_id: str) -> Job:
        """The job that makes or made an adapter. Raises NotFound."""
        with reading(self._engine) as connection:
            return find_one(connection, jobs.c.adapter_id == adapter_id, jobs.c.user_id == user_id)

    def list(self, user_id: str, limit: int = 100) -> builtins.list[Job]:
        """The member's jobs, newest first."""
        theirs = select(jobs).where(jobs.c.user_id == user_id)
        newest = theirs.order_by(jobs.c.created_at.desc(), jobs.c.job_id).limit(limit)
        with reading(self._engine) as connection:
            return [job_of(row) for row in connection.execute(newest)]

    def events(self, job_id: str, after: int = 0) -> builtins.list[JobEvent]:
        """The job's events with numbers above ``after``. Does not ask whose job it is.

        Their data: queued {}, stage {stage}, progress {step, num_steps, loss, predicted_finish_at},
        warning {detail}, sample {number, …}, succeeded {adapter_id}, failed {code, detail}, canceled {}.
        """
        with reading(self._engine) as connection:
            return events_after(connection, job_id, after)

    def ahead_of(self, job_id: str) -> builtins.list[Job]:
        """The jobs before one that waits: those under way, then those claimed first. Empty for others."""
        with reading(self._engine) as connection:
            return job_queries.ahead_of(connection, job_id, self._now())

    def seconds_per_step(self, model_id: str) -> float | None:
        """How long an optimizer step on a model takes of late, None before the first training."""
        with reading(self._engine) as connection:
            return spells.seconds_per_step(connection, model_id)

    def claim(self, owner: str, lease_s: float) -> Job | None:
        """Lease the next job to ``owner`` for ``lease_s``, None where none waits.

        Among queued jobs and those whose lease ran out: first the member who trained the fewest seconds in
        the last 24 hours, then the oldest job. It counts as an attempt. The status stays until
        :meth:`start`. ``cancel_requested`` may be set in a job taken over: finish it as canceled.
        """
        now = self._now()
        with writing(self._engine) as connection:
            row = claim_next(connection, owner, lease_s, now)
        return None if row is None else job_of(row)

    def renew(self, job_id: str, owner: str, lease_s: float) -> bool:
        """The heartbeat: the lease runs ``lease_s`` from now. True: cancel was asked for."""
        expires_at = self._now() + timedelta(seconds=lease_s)
        with self._held(job_id, owner, lease_expires_at=expires_at) as (_, row):
            return bool(row.cancel_requested)

    def start(self, job_id: str, owner: str, words: str = "starting") -> Job:
        """Training begins; from here on the time counts as trained by the member."""
        now = self._now()
        began = func.coalesce(jobs.c.started_at, now)
        with self._held(job_id, owner, status=JobStatus.RUNNING, stage=words, started_at=began) as (to, row):
            spell_id = spells.begin_spell(to, row.user_id, row.model_id, now.timestamp())
            row = write_held(to, job_id, owner, spell_id=spell_id)
            append(to, job_id, JobEventKind.STAGE, now, {"stage": words})
            return job_of(row)

    def stage(self, job_id: str, owner: str, words: str) -> bool:
        """What goes on now, in a word or two. True: cancel was asked for."""
        with self._held(job_id, owner, stage=words) as (to, row):
            append(to, job_id, JobEventKind.STAGE, self._now(), {"stage": words})
            return bool(row.cancel_requested)

    def progress(
        self, job_id: str, owner: str, progress: Progress, predicted_finish_at: datetime | None = None
    ) -> bool:
        """How far training is. True: cancel was asked for."""
        now = self._now()
        # A loss that is not a number is no JSON.
        loss = progress.loss if progress.loss is not None and math.isfinite(progress.loss) else None
        data = {"step": progress.step, "num_steps": progress.num_steps, "loss": loss}
        finish = predicted_finish_at.isoformat() if predicted_finish_at else None
        with self._held(job_id, owner, **data, predicted_finish_at=predicted_finish_at) as (to, row):
            spells.step_spell(to, row.spell_id, progress.step, now.timestamp())
            append(to, job_id, JobEventKind.PROGRESS, now, data | {"predicted_finish_at": finish})
            return bool(row.cancel_requested)

    def sample(self, job_id: str, owner: str, number: int, data: Mapping[str, Any] | None = None) -> bool:
        """Sample picture ``number`` is in the blobs. True: cancel was asked for."""
        with self._held(job_id, owner) as (to, row):
            append(to, job_id, JobEventKind.SAMPLE, self._now(), {**(data or {}), "number": number})
            return bool(row.cancel_requested)

    def release(self, job_id: str, owner: str, *, count_attempt: bool = True) -> Job:
        """Give a job back to be claimed again; canceled instead, if that was asked for.

        Without ``count_attempt`` the attempt is not held against the job.
        """
        attempts = jobs.c.num_attempts - (0 if count_attempt else 1)
        with self._held(job_id, owner, num_attempts=attempts) as (to, row):
            if row.cancel_requested:
                return self._end(to, job_id, JobStatus.CANCELED)
            row = give_up(to, job_id, status=JobStatus.QUEUED, stage="queued")
            append(to, job_id, JobEventKind.QUEUED, self._now())
            return job_of(row)

    def succeed(self, job_id: str, owner: str, adapter: Adapter) -> Job:
        """The adapter and the final state, both or neither."""
        with self._held(job_id, owner) as (to, row):
            assert (adapter.adapter_id, adapter.user_id) == (row.adapter_id, row.user_id), "another's adapter"
            insert_adapter(to, adapter)
            return self._end(to, job_id, JobStatus.SUCCEEDED, {"adapter_id": adapter.adapter_id})

    def fail(self, job_id: str, owner: str, code: str, detail: str) -> Job:
        """The job cannot be done; ``code`` and ``detail`` are those of an error that its member may read."""
        error = {"code": code, "detail": detail}
        with self._held(job_id, owner, error=error) as (to, _):
            return self._end(to, job_id, JobStatus.FAILED, error)

    def finish_canceled(self, job_id: str, owner: str) -> Job:
        """The owner has stopped as it was asked to."""
        with self._held(job_id, owner) as (to, _):
            return self._end(to, job_id, JobStatus.CANCELED)

    def request_cancel(self, job_id: str, user_id: str) -> Job:
        """Cancel a job at once if nobody trains it, else ask its owner to. A final job stays as it is.

        A job that is claimed but not started is canceled at once; its owner hears it as LeaseLost.
        Raises NotFound.
        """
        with writing(self._engine) as connection:
            theirs = (jobs.c.job_id == job_id, jobs.c.user_id == user_id)
            # Locked, so that it cannot be started between here and its end.
            job = find_one(connection, *theirs, lock=True)
            if job.status.final:
                return job
            under_way = jobs.c.status == JobStatus.RUNNING, is_leased(self._now())
            asked = update(jobs).where(*theirs, *under_way).values(cancel_requested=True)
            row = connection.execute(asked.returning(*jobs.c)).one_or_none()
            return job_of(row) if row else self._end(connection, job_id, JobStatus.CANCELED)

    @contextmanager
    def _held(self, job_id: str, owner: str, **values: Any) -> Generator[tuple[Connection, Row[Any]]]:
        """A transaction on a job that ``owner`` holds, with the row as it is after ``values`` are in it."""
        with writing(self._engine) as connection:
            row = write_held(connection, job_id, owner, **values)
            spells.see_spell(connection, row.spell_id, self._clock())
            yield connection, row

    def _end(
        self, connection: Connection, job_id: str, status: JobStatus, data: Mapping[str, Any] | None = None
    ) -> Job:
        now = self._now()
        row = give_up(connection, job_id, status=status, stage=status, ended_at=now)
        append(connection, job_id, JobEventKind(status), now, data)
        return job_of(row)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
