from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from deployments.pipeline.batcher import Batcher


class Squares:
    """Squares numbers while ``gate`` is open; refuses batches with a negative one."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.started.release()
        assert self.gate.wait(10)
        if min(numbers) < 0:
            raise ValueError("negative")
        return [number * number for number in numbers]

    async def until_started(self) -> None:
        await asyncio.to_thread(self.started.acquire)


async def submitted(batcher: Batcher[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_does_not_wait_for_company() -> None:
    squares = Squares()
    squares.gate.set()
    assert await Batcher(squares, 4).submit(3) == 9
    assert squares.batches == [[3]]


async def test_what_waits_is_batched_up_to_the_maximum() -> None:
    squares = Squares()
    batcher = Batcher(squares, 3)
    first = await submitted(batcher, 1)
    await squares.until_started()
    others = await submitted(batcher, 2, 3, 4, 5)
    squares.gate.set()
    assert await asyncio.gather(*first, *others) == [1, 4, 9, 16, 25]
    assert squares.batches == [[1], [2, 3, 4], [5]]


async def test_a_batch_shares_one_key() -> None:
    squares = Squares()
    batcher = Batcher(squares, 8, key=lambda number: number % 2)
    first = await submitted(batcher, 0)
    await squares.until_started()
    others = await submitted(batcher, 1, 2, 3, 4)
    squares.gate.set()
    assert await asyncio.gather(*first, *others) == [0, 1, 4, 9, 16]
    assert squares.batches == [[0], [1, 3], [2, 4]]


async def test_one_bad_item_fails_alone() -> None:
    squares = Squares()
    batcher = Batcher(squares, 8)
    first = await submitted(batcher, 1)
    await squares.until_started()
    good, bad, also_good = await submitted(batcher, 2, -1, 3)
    squares.gate.set()
    await asyncio.gather(*first)
    assert await good == 4
    assert await also_good == 9
    with pytest.raises(ValueError, match="negative"):
        await bad


async def test_a_caller_that_has_gone_is_left_out_and_others_stay() -> None:
    squares = Squares()
    batcher = Batcher(squares, 8)
    running, *_ = await submitted(batcher, 1)
    await squares.until_started()
    gone, stays = await submitted(batcher, 2, 3)
    gone.cancel()
    running.cancel()
    squares.gate.set()
    assert await stays == 9
    assert squares.batches == [[1], [3]]
    assert gone.cancelled()
    assert running.cancelled()


async def test_it_goes_on_after_a_failure() -> None:
    squares = Squares()
    squares.gate.set()
    batcher = Batcher(squares, 8)
    with pytest.raises(ValueError, match="negative"):
        await batcher.submit(-2)
    assert await batcher.submit(2) == 4
