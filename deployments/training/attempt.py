"""One claim of a job, from the queue to its end: class pictures, the task, the heartbeat, what goes wrong.

Knows the store and something that runs tasks; neither Ray nor Serve.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from core.errors import InsufficientStorage, LeaseLost, LimnerError, NotFound
from core.settings import TrainingSettings
from core.telemetry import log, logger
from core.training import Job, TrainingOptions, TrainingSpec
from deployments.training.class_pictures import ClassPictures
from deployments.training.forecast import step_seconds
from deployments.training.leftovers import clear
from deployments.training.work import WORTH_RETRYING, Order
from store.blobs import Blobs
from store.jobs import Jobs

_LOG = logger(__name__)

STARTING = "starting a training task"
WAITING = "waiting for a training node"
# A task that has not said a word after this long has no node to run on.
_SILENCE_S = 10.0
# A task that was asked to stop does so within a step; one that does not is ended.
_STOP_S = 30.0


class Run(Protocol):
    """A task under way."""

    async def wait(self, timeout_s: float) -> bool:
        """Whether it is over by then. Raises a ``LimnerError`` for one that nobody will try again."""

    def stop(self) -> None:
        """End it at once, wherever it is. Without effect on one that is over."""


class Launch(Protocol):
    """Starts tasks."""

    def __call__(self, order: Order) -> Run: ...


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """What attempts share."""

    jobs: Jobs
    blobs: Blobs
    launch: Launch
    class_pictures: ClassPictures
    settings: TrainingSettings
    device: str


class Attempt:
    """Carries one job as long as the lease is ``owner``'s."""

    def __init__(self, shop: Workshop, job: Job, owner: str) -> None:
        self._shop = shop
        self._job = job
        self._owner = owner
        self._spec = spec_of(job)
        self._hurry = asyncio.Event()

    @property
    def job_id(self) -> str:
        return self._job.job_id

    def look(self) -> None:
        """Something about the job may have changed: see at once."""
        self._hurry.set()

    async def carry(self) -> None:
        """Until the job is over or another's. What the store does not take now is left to the lease's end."""
        try:
            await self._carried()
        except LeaseLost:
            log(_LOG, logging.INFO, "lease lost", job_id=self.job_id)
        except LimnerError as error:
            log(_LOG, logging.ERROR, "training given up", job_id=self.job_id, code=error.code)
            with suppress(LeaseLost):
                await self._told("fail", error.code, error.message)
        await self._clear()

    def release(self) -> None:
        """Give the job back; the next claim resumes it. Blocks."""
        self._shop.jobs.release(self.job_id, self._owner, count_attempt=False)

    async def _carried(self) -> None:
        if self._job.cancel_requested:
            await self._told("finish_canceled")
            return
        allowed = self._shop.settings.max_retries + 1
        if self._job.num_attempts > allowed:
            raise GivenUp(f"The training was interrupted {allowed} times.")
        work = asyncio.create_task(self._work())
        try:
            if await self._kept_alive(work):
                await self._told("finish_canceled")
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError, LimnerError):
                await work

    async def _kept_alive(self, work: asyncio.Task[None]) -> bool:
        """Renew the lease until ``work`` ends, and raise what it raises. True: it has to be ended."""
        loop = asyncio.get_running_loop()
        stop_at = math.inf
        while True:
            await self._beat(work)
            if work.done():
                work.result()
                return False
            if await self._renewed():
                stop_at = min(stop_at, loop.time() + _STOP_S)
            if loop.time() >= stop_at:
                return True

    async def _beat(self, work: asyncio.Task[None]) -> None:
        """Wait until the lease has to be renewed, or something happens."""
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait(
                {work, hurry},
                timeout=self._shop.settings.lease_s / 3,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            hurry.cancel()
        self._hurry.clear()

    async def _renewed(self) -> bool:
        """Whether a cancel was asked for. A store that cannot tell now is asked again in time."""
        try:
            return bool(await self._told("renew", self._shop.settings.lease_s))
        except (InsufficientStorage, *WORTH_RETRYING) as error:
            log(_LOG, logging.WARNING, "lease not renewed", job_id=self.job_id, error=type(error).__name__)
            return False

    async def _work(self) -> None:
        spec, shop = self._spec, self._shop
        if await asyncio.to_thread(shop.class_pictures.missing, spec):
            await self._told("stage", "drawing class pictures")
            await shop.class_pictures.complete(spec)
        measured = await asyncio.to_thread(shop.jobs.seconds_per_step, spec.model_id)
        await self._told("stage", STARTING)
        run = shop.launch(
            Order(
                job_id=self.job_id,
                owner=self._owner,
                adapter_id=self._job.adapter_id,
                spec=spec,
                num_photos=self._job.num_photos,
                step_s=step_seconds(measured, shop.device),
                device=shop.device,
                num_threads=shop.settings.num_threads,
            )
        )
        try:
            while not await run.wait(_SILENCE_S):
                if (await self._seen()).stage == STARTING:
                    await self._told("stage", WAITING)
        finally:
            run.stop()

    async def _told(self, method: str, *arguments: Any) -> Any:
        """What the store answers to the owner of the lease."""
        said: Callable[..., Any] = getattr(self._shop.jobs, method)
        return await asyncio.to_thread(said, self.job_id, self._owner, *arguments)

    async def _seen(self) -> Job:
        return await asyncio.to_thread(self._shop.jobs.get, self.job_id, self._job.user_id)

    async def _clear(self) -> None:
        with suppress(NotFound):
            job = await self._seen()
            await asyncio.to_thread(clear, self._shop.blobs, job)


class GivenUp(LimnerError):
    """A job that ended whoever worked on it, again and again."""

    code, title = "training_failed", "Training failed"


def spec_of(job: Job) -> TrainingSpec:
    """What a job was asked for, without its photos."""
    members = dict(job.spec)
    options = TrainingOptions(**members.pop("options"))
    return TrainingSpec(photos=(), options=options, **members)
