"""A denoise request's events, with its adapters in memory from before its submission to its end.

Knows the cache and the engine's stream; nothing of files or slots. No ray, no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

from core.errors import DeadlineExceeded
from deployments.engine.request import DenoiseEvent, DenoiseRequest
from deployments.pipeline.adapter_cache import AdapterCache
from deployments.pipeline.streaming import PROGRESS_INTERVAL_S, Submits, stream_events

# A deadline that has all but passed: the engine says so.
_LEAST_S = 1e-3


async def stream_with_adapters(
    engine: Submits,
    cache: AdapterCache,
    request: DenoiseRequest,
    *,
    progress_interval_s: float = PROGRESS_INTERVAL_S,
) -> AsyncGenerator[DenoiseEvent, None]:
    """As ``stream_events``, with the adapters of ``request`` out of ``cache``.

    The deadline counts from now, so loading is part of it. Raises besides what the cache raises, and
    DeadlineExceeded when the adapters are not there in time.
    """
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(request.deadline_s):
                factors = await stack.enter_async_context(cache.holding(request.adapters))
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed while the adapters were loaded.") from None
        if request.adapters and request.deadline_s is not None:
            left_s = began + request.deadline_s - time.monotonic()
            request = replace(request, deadline_s=max(left_s, _LEAST_S))
        streaming = stream_events(engine, request, adapters=factors, progress_interval_s=progress_interval_s)
        async with aclosing(streaming) as events:
            async for event in events:
                yield event
