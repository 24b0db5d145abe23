from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from core.errors import GenerationFailed, InvalidRequest, QueueFull
from deployments.serving.handles import ask
from tests.fakes import FakeRemote


class Handle:
    """Its ``mask`` gives one of ``answers`` each time, or raises it."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.mask = FakeRemote(self._next)

    def _next(self, *arguments: Any) -> Awaitable[Any]:
        answer = self._answers.pop(0)

        async def given() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer, arguments

        return given()


def task_error(cause: Exception) -> Exception:
    error: Exception = RayTaskError("mask", "traceback", cause, pid=1, ip="127.0.0.1").as_instanceof_cause()
    return error


async def test_an_answer_comes_through_another_replica_when_one_dies() -> None:
    answer = await ask(Handle(ActorDiedError(), "found"), "mask", 1, 2)  # type: ignore[arg-type]
    assert answer == ("found", (1, 2))


async def test_a_replica_that_always_dies_is_an_error_that_may_be_tried_again() -> None:
    with pytest.raises(GenerationFailed) as failed:
        await ask(Handle(*[ActorDiedError()] * 3), "mask")  # type: ignore[arg-type]
    assert failed.value.retryable


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (task_error(InvalidRequest("no", field="image")), InvalidRequest),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), QueueFull),
        (task_error(ValueError("a bug")), ValueError),
    ],
)
async def test_rays_errors_become_ours(raised: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught:
        await ask(Handle(raised), "mask")  # type: ignore[arg-type]
    if expected is InvalidRequest:
        assert type(caught.value) is InvalidRequest
        assert caught.value.field == "image"
