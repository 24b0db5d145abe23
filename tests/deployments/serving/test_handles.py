from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from core.errors import GenerationFailed, InvalidRequest, QueueFull
from core.types import SamplerName
from deployments.engine.request import Accepted, AdapterInput, DenoiseRequest
from deployments.serving.handles import ask, denoise_through
from tests.fakes import FakeDenoiserHandle, FakeRemote


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


@pytest.mark.parametrize(("adapter_ids", "routed_by"), [((), ""), (("b",), "b"), (("b", "a"), "a,b")])
async def test_requests_are_routed_by_their_adapters(adapter_ids: tuple[str, ...], routed_by: str) -> None:
    handle = FakeDenoiserHandle([Accepted("r", 1.0)])
    request = DenoiseRequest(
        request_id="r",
        prompt_embeds=torch.zeros(77, 8),
        noise=torch.zeros(4, 8, 8),
        sampler=SamplerName.DDIM,
        num_inference_steps=1,
        guidance_scale=1.0,
        seed=0,
        adapters=tuple(AdapterInput(adapter_id, 1.0) for adapter_id in adapter_ids),
    )
    assert [event async for event in denoise_through(handle)(request)] == [Accepted("r", 1.0)]  # type: ignore[arg-type]
    assert handle.routing_ids == [routed_by]
