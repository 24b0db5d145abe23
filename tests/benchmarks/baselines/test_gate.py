"""The bound on what is inside: beyond it the answer is 503 at once."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.baselines.gate import Gate


class Room:
    """An application whose visitors stay until the door opens."""

    def __init__(self, max_inside: int) -> None:
        self.door = asyncio.Event()
        routes = [Route("/draw", self.draw, methods=["POST"]), Route("/stats", self.stats)]
        gate = Gate(Starlette(routes=routes), max_inside)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://room")

    async def draw(self, _: Request) -> PlainTextResponse:
        await self.door.wait()
        return PlainTextResponse("a picture")

    async def stats(self, _: Request) -> PlainTextResponse:
        return PlainTextResponse("many")


async def statuses(room: Room, num: int) -> list[int]:
    asked = [asyncio.create_task(room.client.post("/draw")) for _ in range(num)]
    await asyncio.sleep(0.05)
    assert (await room.client.get("/stats")).status_code == 200
    room.door.set()
    return sorted([(await each).status_code for each in asked])


@pytest.mark.parametrize(
    ("max_inside", "told"), [(3, [200, 200, 200, 503, 503]), (0, [200] * 5), (9, [200] * 5)]
)
async def test_who_finds_no_place_is_refused_at_once(max_inside: int, told: list[int]) -> None:
    assert await statuses(Room(max_inside), 5) == told


async def test_a_place_is_free_again_after_the_answer() -> None:
    room = Room(1)
    assert await statuses(room, 2) == [200, 503]
    assert (await room.client.post("/draw")).status_code == 200
