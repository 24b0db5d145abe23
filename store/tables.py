"""The tables. SQL that SQLite and PostgreSQL both know; times are UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
)

from core.training import JobStatus

SCHEMA_VERSION = 1
OPEN = tuple(status.value for status in JobStatus if not status.final)

metadata = MetaData()


class UtcTime(TypeDecorator[datetime]):
    """A moment with its time zone, which SQLite would forget: always UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

# What makes a lease: ``owner`` may write until another owner's name stands there. A final job has none.
jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(160), primary_key=True),
    Column("user_id", String(255), nullable=False),
    Column("adapter_id", String(160), nullable=False, unique=True),
    Column("model_id", String(160), nullable=False),
    Column("status", String(16), nullable=False),
    Column("stage", String(255), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("num_photos", Integer, nullable=False),
    Column("step", Integer, nullable=False, default=0),
    Column("num_steps", Integer, nullable=False),
    Column("loss", Double),
    Column("warnings", JSON, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("num_attempts", Integer, nullable=False, default=0),
    Column("num_events", Integer, nullable=False, default=0),
    Column("owner", String(160)),
    Column("lease_expires_at", UtcTime),
    Column("spell_id", String(160)),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("predicted_finish_at", UtcTime),
)
_is_open = jobs.c.status.in_(OPEN)
jobs.append_constraint(CheckConstraint(_is_open | jobs.c.owner.is_(None), name="final_jobs_have_no_owner"))
Index(
    "one_open_job_per_member", jobs.c.user_id, unique=True, sqlite_where=_is_open, postgresql_where=_is_open
)
Index("jobs_by_member", jobs.c.user_id, jobs.c.created_at)
Index("jobs_by_status", jobs.c.status)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("data", JSON, nullable=False),
)

# A spell is the time that one attempt trained. It names no job, so it may outlive one; ``user_id`` goes
# once it no longer counts for fairness. Its times are seconds since the epoch, to be summed by the database.
spells = Table(
    "training_spells",
    metadata,
    Column("spell_id", String(160), primary_key=True),
    Column("user_id", String(255), index=True),
    Column("model_id", String(160), nullable=False, index=True),
    Column("started_s", Double, nullable=False),
    Column("seen_s", Double, nullable=False, index=True),
    Column("first_step", Integer),
    Column("first_step_s", Double),
    Column("last_step", Integer),
    Column("last_step_s", Double),
)

adapters = Table(
    "adapters",
    metadata,
    Column("adapter_id", String(160), primary_key=True),
    Column("user_id", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("model_id", String(160), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("trigger", String(255), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("alpha", Double, nullable=False),
    Column("num_steps", Integer),
    Column("has_text_encoder", Boolean, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("num_bytes", Integer, nullable=False),
    Column("num_samples", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)
Index("adapters_by_member", adapters.c.user_id, adapters.c.created_at)
