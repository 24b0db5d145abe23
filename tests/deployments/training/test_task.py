from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from ray.exceptions import RayTaskError, TaskCancelledError, WorkerCrashedError

from core.settings import StoreSettings
from deployments.training.task import RayRun, StoreUrls, TaskLost


class Reference:
    """What Ray gives for a task, as far as it is waited for."""

    def __init__(self) -> None:
        self.ended: Future[None] = Future()

    def future(self) -> Future[None]:
        return self.ended


def run() -> tuple[RayRun, Future[None]]:
    reference: Any = Reference()
    return RayRun(reference), reference.ended


async def test_a_task_is_waited_for_and_asked_again() -> None:
    task, ended = run()
    assert not await task.wait(0.001)
    ended.set_result(None)
    assert await task.wait(60)
    assert await task.wait(60)
    task.stop()


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (WorkerCrashedError(), "WorkerCrashedError"),
        (TaskCancelledError(), "TaskCancelledError"),
        (
            RayTaskError("train", "Ada's traceback", OSError("Ada"), pid=1, ip="").as_instanceof_cause(),
            "OSError",
        ),
    ],
)
async def test_a_task_lost_for_good_says_why_in_a_word(error: Exception, named: str) -> None:
    task, ended = run()
    ended.set_exception(error)
    with pytest.raises(TaskLost, match=named) as caught:
        await task.wait(60)
    assert "Ada" not in caught.value.message


def test_the_store_is_named_to_other_processes() -> None:
    urls = StoreUrls.of(StoreSettings(database="postgresql://db/limner", blobs="s3://limner"))
    assert urls == StoreUrls("postgresql://db/limner", "s3://limner")
    assert StoreUrls.of(StoreSettings()).database.startswith("sqlite:////")
