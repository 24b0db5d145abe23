"""So many large uploads at a time; the others wait unread, or are sent away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import QueueFull, UploadTooSlow
from serve_app.upload_slots import MAX_UPLOADS, MAX_WAITING, UploadSlots
from tests.serve_app.fakes import Service
from tests.serve_app.test_validation import assert_problem
from tests.serve_app.trainings import as_user, train


async def test_no_more_than_so_many_at_once() -> None:
    slots, inside, most, release = UploadSlots(2, 8), 0, 0, asyncio.Event()

    async def upload() -> None:
        nonlocal inside, most
        async with slots.one():
            inside += 1
            most = max(most, inside)
            await release.wait()
            inside -= 1

    uploads = [asyncio.create_task(upload()) for _ in range(6)]
    await asyncio.sleep(0)
    assert inside == 2
    release.set()
    await asyncio.gather(*uploads)
    assert most == 2


async def test_too_many_waiting_are_sent_away_and_may_come_back() -> None:
    slots = UploadSlots(1, 1)
    async with slots.one():
        waiting = asyncio.create_task(slots.one().__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as caught:
            async with slots.one():
                pass
        assert caught.value.retry_after_s
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with slots.one():
        pass


async def test_a_slot_is_given_back_after_a_failure() -> None:
    slots = UploadSlots(1, 1)
    for _ in range(3):
        with pytest.raises(ValueError, match="bad"):
            async with slots.one():
                raise ValueError("bad")


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    slots = UploadSlots(max_upload_s=0.001)
    with pytest.raises(UploadTooSlow):
        async with slots.in_time():
            await asyncio.Event().wait()


async def test_uploads_beyond_the_limit_wait_unread(tmp_path: Path) -> None:
    service, release = Service(folder=tmp_path), asyncio.Event()
    begun: list[int] = []

    async def slow(number: int) -> AsyncIterator[bytes]:
        begun.append(number)
        yield b"--x\r\n"
        await release.wait()

    async def upload(number: int) -> int:
        answer = await service.client.post(
            "/v1/adapters",
            content=slow(number),
            headers={"Content-Type": "multipart/form-data; boundary=x"} | as_user(f"member-{number}"),
        )
        return answer.status_code

    num_uploads = MAX_UPLOADS + MAX_WAITING + 1
    uploads = [asyncio.create_task(upload(number)) for number in range(num_uploads)]
    done, _ = await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [503]
    assert len(begun) <= MAX_UPLOADS
    answer = await train(service)
    assert assert_problem(answer, 503, "queue_full")["retryable"]
    assert answer.headers["retry-after"]
    release.set()
    statuses = await asyncio.gather(*uploads)
    # What arrived in the end was a form without members.
    assert sorted(statuses) == [422] * (num_uploads - 1) + [503]
    assert (await train(service)).status_code == 202
