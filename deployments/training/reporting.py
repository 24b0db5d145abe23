"""How a training tells its job what it does, and hears that it is to stop. Knows the store alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError

from core.errors import InsufficientStorage
from core.telemetry import log, logger
from core.training import Progress, TrainingOptions
from deployments.training.forecast import Pace
from store import keys
from store.blobs import Blobs
from store.jobs import Jobs

_LOG = logger(__name__)


class Canceled(Exception):
    """The member wants the training to stop."""


class JobReporter:
    """A :class:`deployments.training.run.Reporter` that writes to the store.

    Every method but ``checkpoint`` raises :class:`Canceled` when that was asked for, and LeaseLost once
    the job is another's. Samples and checkpoints that cannot be kept are done without. ``step_s`` is how
    long a step took in earlier trainings.
    """

    def __init__(
        self,
        job_id: str,
        owner: str,
        adapter_id: str,
        jobs: Jobs,
        blobs: Blobs,
        options: TrainingOptions,
        step_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._job_id, self._owner, self._adapter_id = job_id, owner, adapter_id
        self._jobs, self._blobs = jobs, blobs
        self._options = options
        self._clock = clock
        self._pace = Pace(step_s)

    def stage(self, words: str) -> None:
        _heed(self._jobs.stage(self._job_id, self._owner, words))

    def progress(self, progress: Progress) -> None:
        samples = 0
        if self._options.sample_every and progress.step < progress.num_steps:
            done = progress.step // self._options.sample_every
            samples = self._sample_number(progress.num_steps) - done
        now_s = self._clock()
        remaining_s = self._pace.remaining_s(now_s, progress.num_steps - progress.step, samples)
        finish = datetime.fromtimestamp(now_s + remaining_s, UTC)
        _heed(self._jobs.progress(self._job_id, self._owner, progress, finish))

    def sample(self, step: int, png: bytes) -> None:
        number = self._sample_number(step)
        self._pace.sample_drawn()
        try:
            self._blobs.write(keys.sample(self._adapter_id, number), png)
            canceled = self._jobs.sample(self._job_id, self._owner, number, {"step": step})
        except (OSError, DBAPIError, InsufficientStorage) as error:
            log(_LOG, logging.WARNING, "sample lost", job_id=self._job_id, error=type(error).__name__)
        else:
            _heed(canceled)

    def checkpoint(self, data: bytes) -> None:
        try:
            self._blobs.write(keys.checkpoint(self._job_id), data)
        except (OSError, InsufficientStorage) as error:
            log(_LOG, logging.WARNING, "checkpoint lost", job_id=self._job_id, error=type(error).__name__)

    def _sample_number(self, step: int) -> int:
        # It follows from the step, so that an attempt that resumes writes the same ones again.
        return -(-step // self._options.sample_every)


def _heed(canceled: bool) -> None:
    if canceled:
        raise Canceled
