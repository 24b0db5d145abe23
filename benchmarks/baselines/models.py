"""The replica that owns the pipelines, as Ray's example has it and with ``@serve.batch``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray import serve

from benchmarks.baselines.asking import BATCH_WAIT_S, MAX_BATCH, Asking, grouped


class StableDiffusion:
    """One request per call, in the order in which they came."""

    def __init__(self, kernels: str, adapters: Path | None) -> None:
        from benchmarks.baselines.drawing import Drawer

        self.drawer = Drawer(kernels=kernels, adapters=adapters)
        # Calls share the pipeline's scheduler. Serve's own limit of one request would do as well, but the
        # next one would then come after a pause: Serve's router asks again at intervals.
        self._calling = asyncio.Lock()

    async def generate(self, asking: Asking) -> bytes:
        async with self._calling:
            (picture,) = await asyncio.to_thread(self.drawer.draw, [asking])
        return picture

    async def told(self) -> dict[str, float]:
        return self.drawer.told()


class BatchedStableDiffusion(StableDiffusion):
    """Requests of equal settings share a call, and are answered as soon as theirs is done."""

    async def generate(self, asking: Asking) -> bytes:
        picture: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        batch = asyncio.ensure_future(self._together((asking, picture)))
        try:
            # The batch ends first only by failing.
            ends: set[asyncio.Future[Any]] = {batch, picture}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not picture.done():
                await batch
            return await picture
        finally:
            picture.cancel()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _together(self, waiting: list[tuple[Asking, asyncio.Future[bytes]]]) -> list[None]:
        for group in grouped(waiting):
            # Who has hung up meanwhile is left out.
            there = [(asking, picture) for asking, picture in group if not picture.done()]
            if not there:
                continue
            pictures = await asyncio.to_thread(self.drawer.draw, [asking for asking, _ in there])
            for (_, future), picture in zip(there, pictures, strict=True):
                if not future.done():
                    future.set_result(picture)
        return [None] * len(waiting)
