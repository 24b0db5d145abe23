"""Batching of what waits: one function over many items, in a thread of its own.

Knows asyncio and threads; not what the items are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs ``run`` over the items that wait, up to ``max_size`` at a time, and never waits for more.

    While one batch runs, the next one gathers. Items of a batch share ``key``. When a batch fails, each
    of its items is run alone, so that only the one at fault fails. An item whose caller has gone is
    left out. To be used from one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        max_size: int,
        *,
        key: Callable[[Item], Hashable] = lambda _: None,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self._max_size = max_size
        self._key = key
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def submit(self, item: Item) -> Result:
        """Run ``item`` in the next batch with room for it. Raises what ``run`` raises for it alone."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await result

    def close(self) -> None:
        """Let the thread end once its present batch has."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while batch := self._next_batch():
            items = [item for item, _ in batch]
            try:
                results = await self._in_thread(items)
            except Exception as error:
                if len(batch) == 1:
                    _fail(batch[0][1], error)
                else:
                    await self._one_by_one(batch)
                continue
            for (_, waiter), result in zip(batch, results, strict=True):
                if not waiter.done():
                    waiter.set_result(result)

    async def _one_by_one(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        for item, waiter in batch:
            if waiter.done():
                continue
            try:
                (result,) = await self._in_thread([item])
            except Exception as error:
                _fail(waiter, error)
            else:
                if not waiter.done():
                    waiter.set_result(result)

    async def _in_thread(self, items: list[Item]) -> Sequence[Result]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, items)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        left: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        for item, waiter in self._waiting:
            if waiter.done():
                continue
            if len(batch) < self._max_size and (not batch or self._key(item) == self._key(batch[0][0])):
                batch.append((item, waiter))
            else:
                left.append((item, waiter))
        self._waiting = left
        return batch


def _fail(waiter: asyncio.Future[Result], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
