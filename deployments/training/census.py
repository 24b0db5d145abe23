"""What the Trainer counts of all members' jobs, by looking at the store every few seconds. Knows no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from core.figures import Figure, Figures, Kind
from core.training import Job, JobStatus
from deployments.training.attempt import WAITING
from store.overview import jobs_by_id, open_jobs

CENSUS_PERIOD_S = 2.0

JOBS = Figure(
    "limner_training_jobs", Kind.GAUGE, "Trainings that are not over: queued, running.", ("status",)
)
OLDEST_QUEUED = Figure(
    "limner_training_oldest_queued_s", Kind.GAUGE, "For how long the oldest queued training has waited."
)
WAITING_FOR_NODE = Figure(
    "limner_training_waiting_for_node", Kind.GAUGE, "Trainings whose task has no node to run on."
)
STALLED = Figure(
    "limner_training_stalled_s",
    Kind.GAUGE,
    "For how long the running training that has moved least has neither made a step nor begun a stage.",
)
ENDED = Figure(
    "limner_training_ended", Kind.COUNTER, "Trainings that ended: succeeded, failed, canceled.", ("outcome",)
)
TRAINED_S = Figure(
    "limner_training_s", Kind.COUNTER, "Seconds from start to end of trainings that ended.", ("outcome",)
)
STEPS = Figure("limner_training_steps", Kind.COUNTER, "Optimizer steps.")
DURATION = Figure(
    "limner_training_duration_s",
    Kind.HISTOGRAM,
    "Seconds from start to end of trainings that succeeded.",
    (),
    (15, 30, 60, 90, 120, 180, 300, 600, 1_200, 1_800, 3_600, 7_200),
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """How far a job was, and since when (seconds since the epoch) it has been there."""

    step: int
    stage: str
    since: float


class Census:
    """Jobs that come and go between two looks are not counted; nothing is counted twice."""

    def __init__(self, engine: Engine, figures: Figures, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._figures = figures
        self._clock = clock
        self._open: dict[str, _Seen] = {}
        for status in JobStatus:
            if status.final:
                figures.count(ENDED, status.value, by=0)
        figures.count(STEPS, by=0)

    def take(self) -> None:
        """Look once. Blocks, and raises what the store raises."""
        waiting_or_running = open_jobs(self._engine)
        gone = self._open.keys() - {job.job_id for job in waiting_or_running}
        ended = jobs_by_id(self._engine, gone) if gone else {}
        now = self._clock()
        self._count_ended(ended)
        self._open = {job.job_id: self._advanced(job, now) for job in waiting_or_running}
        self._levels(waiting_or_running, now)

    def _advanced(self, job: Job, now: float) -> _Seen:
        last = self._open.get(job.job_id)
        step = job.progress.step
        if last is None:
            # What was done before this process looked for the first time was counted by its predecessor.
            return _Seen(step, job.stage, now)
        self._count_steps(last, step)
        moved = (step, job.stage) != (last.step, last.stage)
        return _Seen(step, job.stage, now if moved else last.since)

    def _count_ended(self, ended: Mapping[str, Job]) -> None:
        for job_id, job in ended.items():
            self._count_steps(self._open[job_id], job.progress.step)
            outcome = job.status.value
            self._figures.count(ENDED, outcome)
            if job.started_at is not None and job.ended_at is not None:
                seconds = (job.ended_at - job.started_at).total_seconds()
                self._figures.count(TRAINED_S, outcome, by=max(seconds, 0.0))
                if job.status is JobStatus.SUCCEEDED:
                    self._figures.sample(DURATION, of=seconds)

    def _count_steps(self, last: _Seen, step: int) -> None:
        # An attempt that begins again at its checkpoint goes backwards.
        self._figures.count(STEPS, by=max(step - last.step, 0))

    def _levels(self, jobs: list[Job], now: float) -> None:
        queued = [job for job in jobs if job.status is JobStatus.QUEUED]
        running = [job for job in jobs if job.status is JobStatus.RUNNING]
        level = self._figures.level
        level(JOBS, JobStatus.QUEUED.value, at=len(queued))
        level(JOBS, JobStatus.RUNNING.value, at=len(running))
        level(OLDEST_QUEUED, at=max((now - job.created_at.timestamp() for job in queued), default=0.0))
        level(WAITING_FOR_NODE, at=sum(job.stage == WAITING for job in jobs))
        level(STALLED, at=max((now - self._open[job.job_id].since for job in running), default=0.0))
