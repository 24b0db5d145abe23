"""What the store knows of members' adapters and jobs, asked for off the event loop. Changes nothing there."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from core.errors import Conflict, NotFound
from core.settings import StoreSettings
from core.training import Adapter, Job, JobEvent
from store.adapters import Adapters
from store.blobs import Blobs
from store.db import open_database
from store.jobs import Jobs

T = TypeVar("T")
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Store(NamedTuple):
    """The store's three parts. They are synchronous and may be shared between threads."""

    jobs: Jobs
    adapters: Adapters
    blobs: Blobs


def open_store(settings: StoreSettings) -> Store:
    """The store of an installation; its tables are made where there are none."""
    database = open_database(settings.database_url)
    return Store(Jobs(database), Adapters(database), Blobs(settings.blobs_url))


class Records:
    """Questions to the store, which is opened by ``open_store`` with the first one, in threads."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._opening = threading.Lock()
        self._store: Store | None = None

    async def ask(self, question: Callable[[Store], T]) -> T:
        """The answer that ``question`` finds in the store. It may block."""
        return await asyncio.to_thread(lambda: question(self._opened()))

    async def adapter(self, adapter_id: str, user_id: str) -> Adapter:
        """Raises:
        NotFound: if the member has no such adapter.
        Conflict: if it is still being trained.
        """
        return (await self.adapters([adapter_id], user_id))[adapter_id]

    async def adapters(
        self, adapter_ids: Sequence[str], user_id: str, field: Callable[[int], str] | None = None
    ) -> dict[str, Adapter]:
        """The adapters by their ids. ``field`` names the request member that has the id of that place.

        Raises:
            NotFound: for the first one that the member has not got, whoever else may have it.
            Conflict: for the first one that is still being trained.
        """
        return await self.ask(lambda store: _adapters(store, adapter_ids, user_id, field))

    async def job(self, job_id: str, user_id: str) -> Job:
        """Raises:
        NotFound: if the member has no such job.
        """
        return await self.ask(lambda store: store.jobs.get(job_id, user_id))

    async def events(self, job_id: str, user_id: str, after: int) -> tuple[Job, list[JobEvent]]:
        """A job, and at least the events that it had then beyond number ``after``.

        Raises:
            NotFound: if the member has no such job.
        """
        # In this order: a job that has ended has had all its events.
        return await self.ask(
            lambda store: (store.jobs.get(job_id, user_id), store.jobs.events(job_id, after))
        )

    def _opened(self) -> Store:
        with self._opening:
            if self._store is None:
                self._store = self._open_store()
            return self._store


def _adapters(
    store: Store, adapter_ids: Sequence[str], user_id: str, field: Callable[[int], str] | None
) -> dict[str, Adapter]:
    found = store.adapters.find(filter(is_id, adapter_ids), user_id)
    for place, adapter_id in enumerate(adapter_ids):
        if adapter_id in found:
            continue
        member = field(place) if field else None
        job = _unfinished_job(store, adapter_id, user_id)
        if job is not None:
            raise Conflict(
                f"The adapter is still being trained; follow its job at /v1/jobs/{job.job_id}.", field=member
            )
        raise no_adapter(member)
    return found


def is_id(text: str) -> bool:
    """Whether ``text`` could be an id at all; not every database takes any text."""
    return _ID.fullmatch(text) is not None


def _unfinished_job(store: Store, adapter_id: str, user_id: str) -> Job | None:
    """The member's job that makes the adapter, unless it has ended."""
    if not is_id(adapter_id):
        return None
    try:
        job = store.jobs.find_by_adapter(adapter_id, user_id)
    except NotFound:
        return None
    return None if job.status.final else job


def no_adapter(field: str | None = None) -> NotFound:
    """The error for an adapter that does not exist or is another member's: nobody can tell which."""
    return NotFound("There is no such adapter.", field=field)
