"""The Ray task around an attempt. Knows Ray; what is done in it is ``work.carry_out``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from core.errors import LimnerError
from core.settings import StoreSettings
from core.telemetry import configure
from deployments.training import run
from deployments.training.work import WORTH_RETRYING, Order, Train, carry_out
from store.blobs import Blobs
from store.db import open_database
from store.jobs import Jobs


class TaskLost(LimnerError):
    """The task ended unfinished as often as it may."""

    code, title = "training_failed", "Training failed"


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """Where the store is, for processes on other machines."""

    database: str
    blobs: str

    @classmethod
    def of(cls, settings: StoreSettings) -> StoreUrls:
        return cls(settings.database_url, settings.blobs_url)


# A process that has trained keeps a gigabyte of libraries and weights: it ends with its task.
@ray.remote(max_calls=1)
def _attempt(order: Order, urls: StoreUrls, train: Train) -> None:
    configure()
    engine = open_database(urls.database)
    try:
        carry_out(order, Jobs(engine), Blobs(urls.blobs), train)
    finally:
        engine.dispose()


class RayTasks:
    """Starts tasks with Ray's ``options``: resources, labels of nodes, how often to try again."""

    def __init__(self, urls: StoreUrls, options: Mapping[str, Any], train: Train = run.train) -> None:
        self.options = {"retry_exceptions": list(WORTH_RETRYING), **options}
        self._urls = urls
        self._train = train
        self._task = _attempt.options(**self.options)

    def __call__(self, order: Order) -> RayRun:
        return RayRun(self._task.remote(order, self._urls, self._train))


class RayRun:
    """A Ray task under way. Its worker dies with the process that made this."""

    def __init__(self, reference: ray.ObjectRef[None]) -> None:
        self._reference = reference
        self._ended = asyncio.wrap_future(reference.future())
        # Nobody waits any more for one that was stopped.
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def wait(self, timeout_s: float) -> bool:
        """Raises :class:`TaskLost`."""
        await asyncio.wait({self._ended}, timeout=timeout_s)
        if not self._ended.done():
            return False
        try:
            self._ended.result()
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            raise TaskLost(
                f"The training was interrupted again and again ({type(cause).__name__})."
            ) from error
        return True

    def stop(self) -> None:
        if not self._ended.done():
            # By force: all that matters is in the store, and C code hears of nothing else.
            ray.cancel(self._reference, force=True)
