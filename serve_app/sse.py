"""Server-Sent Events: the wire format, heartbeats, and a response that always closes its source.

Does not know what the events mean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.negotiation import EVENT_STREAM

HEARTBEAT_S = 10.0
HEARTBEAT = b": heartbeat\n\n"


def encode_event(name: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    """One event whose data is JSON on a single line, in ASCII.

    ``number`` is what a client that was cut off sends back as ``Last-Event-ID``.
    """
    identified = "" if number is None else f"id: {number}\n"
    told = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return f"event: {name}\n{identified}data: {told}\n\n".encode()


async def with_heartbeats(
    events: AsyncGenerator[bytes, None], interval_s: float = HEARTBEAT_S
) -> AsyncGenerator[bytes, None]:
    """Pass ``events`` on, with a comment whenever ``interval_s`` went by without one.

    Proxies and browsers close a connection that stays silent. Closing this generator stops ``events``.
    """
    waiting: asyncio.Task[bytes] | None = None
    try:
        while True:
            waiting = waiting or asyncio.create_task(_next(events))
            done, _ = await asyncio.wait((waiting,), timeout=interval_s)
            if not done:
                yield HEARTBEAT
                continue
            arrived, waiting = waiting, None
            try:
                event = arrived.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()


async def _next(events: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(events)


class EventStream(StreamingResponse):
    """Streams encoded events; ``source`` is what they are made of.

    Both are closed as soon as the client goes or the stream ends, even before the first event is sent.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        source: AsyncGenerator[Any, None],
        headers: Mapping[str, str],
    ) -> None:
        self._source = source
        self._events = with_heartbeats(events)
        # X-Accel-Buffering keeps nginx from holding events back.
        super().__init__(self._events, headers={**headers, "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source), aclosing(self._events):
            await super().__call__(scope, receive, send)
