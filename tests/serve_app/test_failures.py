"""Failures of the pipeline and of the connection: who hears of them, and that the work stops."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import DeadlineUnmeetable, GenerationFailed, InvalidRequest, LimnerError, QueueFull
from core.types import Accepted, Progress
from tests.serve_app.fakes import TIMINGS, HangingUp, ScriptedPipeline, Service, drawn, events_of

ACCEPTED = Accepted("id", predicted_finish_s=1.0)
PROGRESS = Progress(step=1, num_steps=2, predicted_finish_s=0.5)
SECRET = "the member's prompt"


class WrappedByRay(Exception):
    """As Ray re-raises a replica's exception: the original is the ``cause``."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__} in a remote process, with its traceback")
        self.cause = cause


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_503_with_retry_after(stream: bool) -> None:
    answer = await Service(QueueFull("Full.", retry_after_s=2.1)).draw(stream=stream)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "queue_full"
    assert answer.json()["retryable"] is True


async def test_errors_wrapped_by_ray_are_themselves() -> None:
    error = DeadlineUnmeetable("Too late.", field="deadline_s", limit=3.5, retry_after_s=0.2)
    answer = await Service(WrappedByRay(WrappedByRay(error))).draw()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert (answer.json()["field"], answer.json()["limit"]) == ("deadline_s", 3.5)
    assert answer.json()["detail"] == "Too late."


@pytest.mark.parametrize("error", [RuntimeError(SECRET), WrappedByRay(ValueError(SECRET))])
async def test_unknown_exceptions_are_500_without_internals(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await Service(ACCEPTED, error).draw()
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert SECRET not in answer.text
    assert SECRET not in caplog.text
    assert "unhandled_error" in caplog.text


@pytest.mark.parametrize(
    ("script", "last"),
    [
        ((ACCEPTED, PROGRESS, GenerationFailed("NaN.")), ("error", "generation_failed")),
        ((ACCEPTED, WrappedByRay(InvalidRequest("No.", field="sampler"))), ("error", "invalid_request")),
        ((ACCEPTED, RuntimeError(SECRET)), ("error", "internal_error")),
        ((ACCEPTED, PROGRESS), ("error", "generation_failed")),
    ],
)
async def test_a_stream_that_fails_ends_in_one_problem(
    script: tuple[Accepted | Progress | Exception, ...], last: tuple[str, str]
) -> None:
    answer = await Service(*script).draw(stream=True)
    assert answer.status_code == 200
    events = events_of(answer.text)
    assert (events[-1][0], events[-1][1]["code"]) == last
    assert [name for name, _ in events].count("error") == 1
    assert "completed" not in dict(events)
    assert SECRET not in answer.text


async def test_nothing_follows_the_last_event() -> None:
    service = Service()
    spec_of: list[ScriptedPipeline] = [service.pipeline]
    await service.draw()
    completed = drawn(spec_of[0].specs[0])
    answer = await Service(ACCEPTED, completed, completed, PROGRESS, RuntimeError("late")).draw(stream=True)
    assert [name for name, _ in events_of(answer.text)] == ["accepted", "completed"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pipeline_without_a_result_is_a_500(stream: bool) -> None:
    answer = await Service(PROGRESS).draw(stream=stream)
    assert answer.status_code == 500
    assert answer.json()["code"] == "generation_failed"


@pytest.mark.parametrize("members", [{}, {"stream": True}])
async def test_hanging_up_before_the_answer_stops_the_work(members: dict[str, bool]) -> None:
    service = Service(asyncio.Event())
    caller = HangingUp(service.api, {"prompt": "a man", **members})
    await service.pipeline.started.wait()
    assert not service.pipeline.closed.is_set()
    caller.hang_up()
    await caller.call
    assert service.pipeline.closed.is_set()


async def test_hanging_up_on_a_stream_stops_the_work() -> None:
    service = Service(ACCEPTED, PROGRESS, asyncio.Event())
    caller = HangingUp(service.api, {"prompt": "a man", "stream": True})
    seen = b""
    while b"progress" not in seen:
        seen += (await caller.received.get()).get("body", b"")
    caller.hang_up()
    await caller.call
    assert service.pipeline.closed.is_set()


@pytest.mark.parametrize("members", [{}, {"stream": True}])
async def test_a_cancelled_call_stops_the_work(members: dict[str, bool]) -> None:
    service = Service(ACCEPTED, asyncio.Event())
    caller = HangingUp(service.api, {"prompt": "a man", **members})
    await service.pipeline.started.wait()
    caller.call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller.call
    assert service.pipeline.closed.is_set()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_finished_call_closes_the_pipeline(stream: bool) -> None:
    service = Service()
    await service.draw(stream=stream)
    assert service.pipeline.closed.is_set()


async def test_the_service_goes_on_after_failures() -> None:
    service = Service()
    working = service.pipeline.script
    service.pipeline.script = (LimnerError("broken"),)
    assert (await service.draw()).status_code == 500
    service.pipeline.script = working
    answer = await service.draw()
    assert answer.json()["timings"]["denoise_s"] == TIMINGS.denoise_s
