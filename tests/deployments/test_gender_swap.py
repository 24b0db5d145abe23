from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from core.errors import GenerationFailed, InvalidRequest, ModerationBlocked, QueueFull
from core.settings import AppSettings, GenderSwapSettings
from core.specs import SwapScope
from core.types import Accepted, Completed
from deployments.denoiser import denoiser_app
from deployments.gender_swap import GenderSwap, gender_swap_app
from tests.deployments.pipeline.gender_swap.studio import FACE, WHITE, ScriptedPainter, flat, spec_of
from tests.fakes import FakePerception


class PerceptionHandle:
    """A Serve handle of Perception: every method has a ``remote``."""

    def __init__(self, perception: FakePerception) -> None:
        self._perception = perception

    def __getattr__(self, method: str) -> Any:
        called = getattr(self._perception, method)

        class Method:
            def remote(self, *arguments: Any) -> Awaitable[Any]:
                answer: Awaitable[Any] = called(*arguments)
                return answer

        return Method()


class PainterHandle:
    """A Serve handle whose ``generate`` streams play scripts, and that counts the streams cancelled."""

    def __init__(self, *scripts: Any) -> None:
        self.painter = ScriptedPainter(*scripts)
        self.num_cancelled = 0

    def options(self, *, stream: bool) -> PainterHandle:
        assert stream
        return self

    @property
    def generate(self) -> PainterHandle:
        return self

    def remote(self, spec: Any) -> PaintingStream:
        return PaintingStream(self, self.painter(spec))


class PaintingStream:
    def __init__(self, handle: PainterHandle, events: AsyncGenerator[Any, None]) -> None:
        self._handle = handle
        self._events = events

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._events

    def cancel(self) -> None:
        self._handle.num_cancelled += 1


def task_error(cause: Exception) -> Exception:
    error: Exception = RayTaskError(
        "generate", "traceback", cause, pid=1, ip="127.0.0.1"
    ).as_instanceof_cause()
    return error


def replica(inpaint: PainterHandle, image_to_image: PainterHandle | None = None, faces: int = 1) -> Any:
    perception: Any = PerceptionHandle(FakePerception(faces=[FACE] * faces))
    whole: Any = image_to_image or PainterHandle()
    swap: Any = GenderSwap
    return swap(perception, inpaint, whole, "mini")


async def test_a_swap_goes_through_the_handles() -> None:
    inpaint = PainterHandle(flat(WHITE))
    swap = replica(inpaint)
    events = [event async for event in swap.generate(spec_of())]
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Completed)
    assert inpaint.num_cancelled == 1
    await swap.check_health()


async def test_a_whole_swap_goes_to_image_to_image() -> None:
    inpaint, image_to_image = PainterHandle(), PainterHandle(flat(WHITE))
    swap = replica(inpaint, image_to_image)
    events = [event async for event in swap.generate(spec_of(scope=SwapScope.WHOLE))]
    assert isinstance(events[-1], Completed)
    assert inpaint.painter.specs == []


async def test_perceptions_refusal_is_the_clients() -> None:
    with pytest.raises(InvalidRequest):
        await anext(replica(PainterHandle(flat(WHITE)), faces=2).generate(spec_of()))


async def test_a_dead_replica_is_not_noticed() -> None:
    inpaint = PainterHandle(ActorDiedError(), flat(WHITE))
    events = [event async for event in replica(inpaint).generate(spec_of())]
    assert [type(event) for event in events].count(Accepted) == 1
    assert isinstance(events[-1], Completed)
    assert inpaint.num_cancelled == 2


async def test_a_replica_that_dies_again_and_again_is_an_error() -> None:
    inpaint = PainterHandle(*[ActorDiedError() for _ in range(3)])
    with pytest.raises(GenerationFailed):
        [event async for event in replica(inpaint).generate(spec_of())]
    assert len(inpaint.painter.specs) == 3


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (task_error(ModerationBlocked("no")), ModerationBlocked),
        (task_error(RuntimeError("bug")), RuntimeError),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), QueueFull),
    ],
)
async def test_errors_of_other_replicas_become_ours(raised: Exception, seen: type[Exception]) -> None:
    with pytest.raises(seen) as caught:
        [event async for event in replica(PainterHandle(raised)).generate(spec_of())]
    assert isinstance(caught.value, RayTaskError) == (seen is RuntimeError)


async def test_closing_the_stream_cancels_the_painting() -> None:
    inpaint = PainterHandle(None)
    events = replica(inpaint).generate(spec_of())
    assert isinstance(await anext(events), Accepted)
    await events.aclose()
    assert inpaint.num_cancelled == 1


def test_the_deployment_follows_its_settings() -> None:
    settings = AppSettings(
        gender_swap=GenderSwapSettings(num_replicas=2, max_ongoing_requests=9), use_gpu=True
    )
    other = denoiser_app(settings)
    deployment = gender_swap_app(settings, other, other, other)._bound_deployment
    assert (deployment.name, deployment.num_replicas, deployment.max_ongoing_requests) == ("GenderSwap", 2, 9)
    assert "num_gpus" not in (deployment.ray_actor_options or {})


def test_no_torch_is_needed() -> None:
    code = "import sys, deployments.gender_swap; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
