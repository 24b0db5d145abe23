"""How many large uploads are in memory at a time. Knows nothing of what they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from core.errors import QueueFull, UploadTooSlow

MAX_UPLOADS = 2
MAX_WAITING = 8
MAX_UPLOAD_S = 300.0
_RETRY_AFTER_S = 10.0


class UploadSlots:
    """Lets ``max_uploads`` be read at a time; ``max_waiting`` more wait, unread, for their turn."""

    def __init__(
        self,
        max_uploads: int = MAX_UPLOADS,
        max_waiting: int = MAX_WAITING,
        max_upload_s: float = MAX_UPLOAD_S,
    ) -> None:
        self._slots = asyncio.Semaphore(max_uploads)
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._max_upload_s = max_upload_s

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[None, None]:
        """A slot, for as long as the upload is in memory.

        Raises:
            QueueFull: if too many wait already.
        """
        if self._num_waiting >= self._max_waiting:
            raise QueueFull("Too many uploads are waiting.", retry_after_s=_RETRY_AFTER_S)
        self._num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._num_waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    @asynccontextmanager
    async def in_time(self) -> AsyncGenerator[None, None]:
        """Bounds how long a body may take to arrive, so that none keeps a slot for ever.

        Raises:
            UploadTooSlow: once it has taken too long.
        """
        try:
            async with asyncio.timeout(self._max_upload_s):
                yield
        except TimeoutError as error:
            raise UploadTooSlow(
                f"The body has to arrive within {self._max_upload_s:g} s.",
                field="body",
                limit=self._max_upload_s,
            ) from error
