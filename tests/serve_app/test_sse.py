"""The wire format of events, heartbeats, and that closing reaches the source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect

from serve_app.sse import HEARTBEAT, EventStream, encode_event, with_heartbeats

SOON_S = 0.001
NEVER_S = 1e6


class Source:
    """Yields one event, then waits until it is released, and yields another."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await self.released.wait()
            yield b"second"
        finally:
            self.closed = True


def test_an_event_is_one_line_of_ascii() -> None:
    assert encode_event("progress", {"note": "a\nb ü"}) == (
        b'event: progress\ndata: {"note":"a\\nb \\u00fc"}\n\n'
    )


def test_numbers_that_are_not_json_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_event("progress", {"predicted_finish_s": float("inf")})


async def test_silence_is_filled_with_heartbeats() -> None:
    source = Source()
    stream = with_heartbeats(source.events(), SOON_S)
    seen = []
    async for event in stream:
        seen.append(event)
        if seen.count(HEARTBEAT) == 3:
            source.released.set()
    assert [event for event in seen if event != HEARTBEAT] == [b"first", b"second"]
    assert seen.count(HEARTBEAT) >= 3
    assert source.closed


async def test_a_steady_source_needs_no_heartbeat() -> None:
    source = Source()
    source.released.set()
    assert [event async for event in with_heartbeats(source.events(), NEVER_S)] == [b"first", b"second"]


@pytest.mark.parametrize("interval_s", [SOON_S, NEVER_S])
async def test_closing_closes_the_source(interval_s: float) -> None:
    source = Source()
    stream = with_heartbeats(source.events(), interval_s)
    assert await anext(stream) == b"first"
    if interval_s == SOON_S:
        assert await anext(stream) == HEARTBEAT
    await stream.aclose()
    assert source.closed


async def test_errors_of_the_source_pass_through() -> None:
    async def failing() -> AsyncGenerator[bytes, None]:
        yield b"first"
        raise ConnectionError

    stream = with_heartbeats(failing(), NEVER_S)
    assert await anext(stream) == b"first"
    with pytest.raises(ConnectionError):
        await anext(stream)


async def test_a_client_that_goes_before_the_first_event_closes_the_source() -> None:
    source = Source()
    pipeline = source.events()
    assert await anext(pipeline) == b"first"

    async def encoded() -> AsyncGenerator[bytes, None]:
        async for event in pipeline:
            yield event

    async def gone(message: object) -> None:
        raise OSError

    async def nothing() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        await EventStream(encoded(), pipeline, {})(scope, nothing, gone)
    assert source.closed
