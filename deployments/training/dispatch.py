"""Claims jobs as there is room, and carries each to its end. Knows leases; not how a task runs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from core.telemetry import log, logger
from deployments.training.attempt import Attempt, Workshop
from store.keys import new_id

_LOG = logger(__name__)

# How often to look for jobs whose owner died, at most, in seconds.
_POLL_S = 5.0


class Dispatcher:
    """Carries up to ``settings.max_concurrent`` jobs at a time, those whose owner died included."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._wake = asyncio.Event()
        self._carrying: dict[Attempt, asyncio.Task[None]] = {}
        self._closed = False

    def wake(self) -> None:
        """There may be something to claim."""
        self._wake.set()

    def look(self, job_id: str) -> None:
        """Something about the job may have changed: see at once, if it is carried here."""
        for attempt in self._carrying:
            if attempt.job_id == job_id:
                attempt.look()

    async def run(self) -> None:
        """Go on until closed or cancelled; trouble with the store passes or is tried again."""
        pause_s = min(_POLL_S, self._shop.settings.lease_s / 3)
        while not self._closed:
            try:
                await self._claim()
            except Exception as error:
                log(_LOG, logging.ERROR, "no job can be claimed", error=type(error).__name__)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)
            self._wake.clear()

    def close(self) -> None:
        """Give every job back, for whoever claims it next. Blocks for as long as the store takes."""
        self._closed = True
        for attempt, task in self._carrying.items():
            task.cancel()
            try:
                attempt.release()
            except Exception as error:
                # Its lease runs out instead.
                log(
                    _LOG,
                    logging.WARNING,
                    "job not given back",
                    job_id=attempt.job_id,
                    error=type(error).__name__,
                )

    async def _claim(self) -> None:
        shop = self._shop
        while len(self._carrying) < shop.settings.max_concurrent:
            owner = new_id("own")
            job = await asyncio.to_thread(shop.jobs.claim, owner, shop.settings.lease_s)
            if job is None:
                return
            if self._closed:
                await asyncio.to_thread(shop.jobs.release, job.job_id, owner, count_attempt=False)
                return
            log(_LOG, logging.INFO, "job claimed", job_id=job.job_id, attempt=job.num_attempts)
            attempt = Attempt(shop, job, owner)
            self._carrying[attempt] = asyncio.create_task(self._carried(attempt))

    async def _carried(self, attempt: Attempt) -> None:
        try:
            await attempt.carry()
        except Exception as error:
            # Trouble with the store: when the lease has run out, the job is claimed again.
            log(_LOG, logging.ERROR, "job dropped", job_id=attempt.job_id, error=type(error).__name__)
        finally:
            del self._carrying[attempt]
            self._wake.set()
