"""The client against a real server: it sends in time, whatever becomes of what it sent before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.loadtest.client import (
    CANCELLED,
    EXPIRED,
    FAILED,
    OK,
    REFUSED,
    Message,
    one_by_one,
    replay,
    server_timing,
)
from benchmarks.loadtest.workload import Asked
from serve_app.cli import free_ports

ASKED = Asked(0, 0.0, "text", 0, 8, 5.0, 0, "anna")


class Server:
    """Answers after the seconds, and with the status, that the body names."""

    def __init__(self) -> None:
        self.num_inside = self.most_inside = 0
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        app = Starlette(routes=[Route("/", self.answer, methods=["POST"])])
        self.server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))

    async def answer(self, request: Request) -> Response:
        told = await request.json()
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        try:
            await asyncio.sleep(told["seconds"])
        finally:
            self.num_inside -= 1
        return Response(b"a picture", told["status"], {"Server-Timing": "total;dur=4.0, predicted;dur=250.0"})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    serving = asyncio.create_task(running.server.serve())
    while not running.server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield running
    running.server.should_exit = True
    await serving


def message(seconds: float, status: int = 200) -> Message:
    return Message("/", {"seconds": seconds, "status": status}, {})


async def test_slow_answers_do_not_hold_up_later_requests(server: Server) -> None:
    asked = [replace(ASKED, number=number, at=0.02 * number) for number in range(5)]
    outcomes = await replay(server.url, asked, lambda _: message(0.3))
    assert [outcome.status for outcome in outcomes] == [OK] * 5
    assert [outcome.asked.number for outcome in outcomes] == list(range(5))
    assert server.most_inside == 5
    assert all(outcome.latency_s >= 0.3 for outcome in outcomes)
    assert {outcome.predicted_s for outcome in outcomes} == {0.25}


async def test_statuses_tell_refusals_from_failures(server: Server) -> None:
    statuses = {0: 503, 1: 429, 2: 500, 3: 200, 4: 504}
    asked = [replace(ASKED, number=number) for number in statuses]
    outcomes = await replay(server.url, asked, lambda each: message(0.0, statuses[each.number]))
    assert [outcome.status for outcome in outcomes] == [REFUSED, REFUSED, FAILED, OK, EXPIRED]
    assert "500" in outcomes[2].detail


async def test_nobody_there_is_a_failure() -> None:
    (outcome,) = await replay(f"http://127.0.0.1:{free_ports(1)[0]}", [ASKED], lambda _: message(0.0))
    assert outcome.status == FAILED
    assert "ConnectError" in outcome.detail


async def test_a_client_hangs_up_after_its_share_of_the_standalone_latency(server: Server) -> None:
    asked = replace(ASKED, cancel_after=0.5)
    (outcome,) = await replay(server.url, [asked], lambda _: message(1.0), {asked.kind: 0.2})
    assert outcome.status == CANCELLED
    assert 0.1 <= outcome.latency_s < 1.0


async def test_one_by_one_is_never_two_at_a_time(server: Server) -> None:
    outcomes = await one_by_one(server.url, [ASKED] * 3, lambda _: message(0.02))
    assert [outcome.status for outcome in outcomes] == [OK] * 3
    assert server.most_inside == 1


def test_a_server_timing_header_is_read() -> None:
    assert server_timing("encode;dur=1.5, total;dur=20.0, cache;desc=hit") == {
        "encode": 0.0015,
        "total": 0.02,
    }
    assert server_timing("") == {}
