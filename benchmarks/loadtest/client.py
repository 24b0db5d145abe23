"""The open-loop client: it sends when a request is due, whether or not earlier ones have come back.

Latency counts from the scheduled time, so that a service that makes its clients wait cannot hide it. Knows
HTTP; how a system wants to be asked is given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.loadtest.workload import Asked

OK, REFUSED, CANCELLED, FAILED = "ok", "refused", "cancelled", "failed"
# Accepted, and given up when its deadline passed.
EXPIRED = "expired"
GIVE_UP_S = 120.0
_STATUSES = {200: OK, 429: REFUSED, 503: REFUSED, 504: EXPIRED}


@dataclass(frozen=True, slots=True)
class Message:
    """A request as one system wants it. The answer is a picture file."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. ``late_s`` is how long after its time it was sent.

    ``predicted_s`` is the latency that the service foretold, from when it got the request.
    """

    asked: Asked
    status: str
    late_s: float
    latency_s: float
    predicted_s: float | None = None
    detail: str = ""


Ask = Callable[[Asked], Message]


async def replay(
    url: str, asked: Sequence[Asked], ask: Ask, patience_s: Mapping[str, float] | None = None
) -> list[Outcome]:
    """Send every request at its time; ``patience_s`` is what ``cancel_after`` is a share of, by kind."""
    messages = [ask(each) for each in asked]
    async with _client(url, len(asked)) as client:
        began = time.monotonic()
        tasks = []
        for each, message in zip(asked, messages, strict=True):
            await asyncio.sleep(began + each.at - time.monotonic())
            cancel_at = None
            if each.cancel_after is not None and patience_s is not None:
                cancel_at = began + each.at + each.cancel_after * patience_s[each.kind]
            tasks.append(asyncio.create_task(_sent(client, each, message, began + each.at, cancel_at)))
        return await asyncio.gather(*tasks)


async def one_by_one(url: str, asked: Sequence[Asked], ask: Ask) -> list[Outcome]:
    """Send each request when the one before is answered."""
    async with _client(url, 1) as client:
        return [await _sent(client, each, ask(each), time.monotonic(), None) for each in asked]


def _client(url: str, num: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=num)
    # Pictures do not compress; a service must not spend time on trying.
    headers = {"Accept-Encoding": "identity"}
    return httpx.AsyncClient(base_url=url, timeout=GIVE_UP_S, limits=limits, headers=headers)


async def _sent(
    client: httpx.AsyncClient, asked: Asked, message: Message, due: float, cancel_at: float | None
) -> Outcome:
    sent = time.monotonic()
    answer: httpx.Response | None = None
    detail = ""
    try:
        async with asyncio.timeout_at(_loop_time(cancel_at)):
            answer = await client.post(message.path, json=message.body, headers=message.headers)
    except TimeoutError:
        return Outcome(asked, CANCELLED, sent - due, time.monotonic() - due)
    except httpx.HTTPError as error:
        detail = repr(error)
    status = FAILED
    if answer is not None:
        status = _STATUSES.get(answer.status_code, FAILED)
        detail = "" if status == OK else f"{answer.status_code} {answer.text[:200]}"
    predicted_s = None if answer is None else predicted(answer.headers)
    return Outcome(asked, status, sent - due, time.monotonic() - due, predicted_s, detail)


def _loop_time(at: float | None) -> float | None:
    """A time of ``time.monotonic`` on the clock of the event loop."""
    return None if at is None else asyncio.get_running_loop().time() + at - time.monotonic()


def predicted(headers: Mapping[str, str]) -> float | None:
    """The seconds of the stage ``predicted`` in a ``Server-Timing`` header."""
    return server_timing(headers.get("server-timing", "")).get("predicted")


def server_timing(header: str) -> dict[str, float]:
    """The seconds of each stage of a ``Server-Timing`` header."""
    found = {}
    for entry in header.split(","):
        name, _, rest = entry.strip().partition(";")
        if rest.startswith("dur="):
            found[name] = float(rest.removeprefix("dur=")) / 1_000
    return found
