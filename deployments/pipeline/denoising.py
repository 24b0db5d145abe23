"""A denoise request seen through to its end, over as many Denoiser replicas as that takes.

Knows the engine's events and that replicas come and go; not how they are reached.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from core.errors import DeadlineExceeded, GenerationFailed, RequestCancelled, ShuttingDown
from deployments.engine.request import (
    Accepted,
    Cancelled,
    DenoiseEvent,
    DenoiseRequest,
    Done,
    Failed,
    HandedBack,
)

# A request that kills its replica must not kill many; one that is handed back has done no harm.
MAX_LOST = 2
MAX_MOVES = 8
_PAUSE_S = 0.1

Denoise = Callable[[DenoiseRequest], AsyncGenerator[DenoiseEvent, None]]


class ReplicaLost(Exception):
    """The Denoiser replica is gone: killed, crashed, or cut off."""


async def denoise_to_the_end(denoise: Denoise, request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
    """The events of ``request``, ``Done`` last.

    A request handed back goes on elsewhere from its snapshot, one whose replica is lost starts over;
    their events follow as if nothing had happened, but for another ``Accepted``. Raises the
    ``LimnerError`` that ended the request. Closing this cancels the request.
    """
    deadline = None if request.deadline_s is None else time.monotonic() + request.deadline_s
    attempt, num_lost, accepted = request, 0, False
    for move in range(1, MAX_MOVES + 1):
        async with aclosing(denoise(attempt)) as events:
            try:
                async for event in events:
                    match event:
                        case Accepted():
                            accepted = True
                        case HandedBack(snapshot=snapshot):
                            attempt = replace(attempt, snapshot=snapshot or attempt.snapshot)
                            break
                        case Failed(error=error):
                            raise error
                        case Cancelled():
                            raise RequestCancelled("The request was cancelled.")
                    yield event
                    if isinstance(event, Done):
                        return
            except ShuttingDown:
                # The router had not heard yet; by the next try it may have.
                await asyncio.sleep(_PAUSE_S * move)
            except ReplicaLost:
                num_lost += 1
                if num_lost > MAX_LOST:
                    raise GenerationFailed("Its replica was lost again and again.", retry_after_s=5) from None
        # Ids are new each time: a replica cut off may still hold the old one.
        attempt = replace(
            attempt,
            request_id=f"{request.request_id}~{move}",
            deadline_s=_time_left(deadline),
            moved=accepted,
        )
    raise GenerationFailed(f"No replica finished it in {MAX_MOVES} moves.", retry_after_s=5)


def _time_left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("The deadline passed while the request moved to another replica.")
    return left_s
