"""How requests end is counted once, whatever the answer looks like and whoever ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from core.errors import DeadlineExceeded, GenerationFailed, ModerationBlocked, QueueFull
from core.figures import Figures, Taken
from core.settings import RouterSettings
from core.types import Accepted
from serve_app.api import build_api
from serve_app.records import Records
from serve_app.traffic import (
    OUTCOMES,
    OVER_PREDICTION,
    PICTURES,
    PIPELINES,
    PROBLEMS,
    REQUEST_S,
    REQUESTS,
    STAGES,
)
from tests.serve_app.fakes import (
    MINI,
    TIMINGS,
    HangingUp,
    ScriptedPipeline,
    ScriptedPipelines,
    Step,
)
from tests.serve_app.small_trainer import SmallTrainer

BODY = {"prompt": "portrait of a man"}


class Counted:
    """The API over a pipeline that follows ``script``, with what it counts."""

    def __init__(self, *script: Step) -> None:
        self.figures = Figures()
        self.pipeline = ScriptedPipeline(*script)
        trainer = SmallTrainer(None)
        self.api: FastAPI = build_api(
            ScriptedPipelines(self.pipeline),
            trainer,
            Records(lambda: trainer.store),
            (MINI,),
            RouterSettings(),
            figures=self.figures,
        )

    async def post(self, body: dict[str, Any], path: str = "/v1/text-to-image") -> httpx.Response:
        transport = httpx.ASGITransport(self.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    def taken(self) -> Taken:
        """What was counted, without the zeros that are there from the start."""
        taken = self.figures.take()
        return taken._replace(counts={key: value for key, value in taken.counts.items() if value})


async def test_a_request_that_succeeds_is_counted_with_its_stages() -> None:
    counted = Counted()
    (await counted.post(BODY | {"n": 2})).raise_for_status()
    taken = counted.taken()
    mine = ("text_to_image",)
    assert taken.counts[REQUESTS, (*mine, "completed")] == 1
    assert taken.counts[PICTURES, mine] == 2
    assert taken.counts[STAGES, (*mine, "denoise")] == TIMINGS.denoise_s
    assert taken.counts[STAGES, (*mine, "file")] == TIMINGS.file_s
    assert not [key for key in taken.counts if key[0] is PROBLEMS]
    assert [series for series, _ in taken.samples] == [(REQUEST_S, mine), (OVER_PREDICTION, mine)]
    took_s, ratio = (value for _, value in taken.samples)
    assert took_s > 0
    assert ratio > 0


async def test_a_stream_is_counted_like_an_answer() -> None:
    counted = Counted()
    (await counted.post(BODY | {"stream": True})).raise_for_status()
    taken = counted.taken()
    assert taken.counts[REQUESTS, ("text_to_image", "completed")] == 1
    assert taken.counts[PICTURES, ("text_to_image",)] == 1
    assert len(taken.samples) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (QueueFull("no"), "refused"),
        (GenerationFailed("no"), "failed"),
        (DeadlineExceeded("no"), "failed"),
        (ModerationBlocked("no"), "blocked"),
    ],
)
async def test_an_error_is_counted_by_its_code(
    error: Any, outcome: str, accepted: bool, stream: bool
) -> None:
    script: list[Step] = [Accepted("r", 1.0), error] if accepted else [error]
    counted = Counted(*script)
    await counted.post(BODY | {"stream": stream})
    taken = counted.taken()
    assert taken.counts == {
        (REQUESTS, ("text_to_image", outcome)): 1,
        (PROBLEMS, ("text_to_image", error.code)): 1,
    }
    assert not taken.samples


@pytest.mark.parametrize("body", [{"prompt": ""}, {"prompt": "x", "num_inference_steps": 0}, {}])
async def test_what_the_client_got_wrong_is_not_ours(body: dict[str, Any]) -> None:
    counted = Counted()
    assert (await counted.post(body)).status_code == 422
    assert counted.taken().counts == {
        (REQUESTS, ("text_to_image", "invalid")): 1,
        (PROBLEMS, ("text_to_image", "invalid_request")): 1,
    }


async def test_an_error_that_nobody_knows_is_a_failure() -> None:
    counted = Counted(RuntimeError("no"))
    await counted.post(BODY)
    assert counted.taken().counts[REQUESTS, ("text_to_image", "failed")] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_is_the_clients_doing(stream: bool) -> None:
    counted = Counted(Accepted("r", 1.0), asyncio.Event())
    client = HangingUp(counted.api, BODY | {"stream": stream})
    await counted.pipeline.started.wait()
    if stream:
        await client.received.get()
    client.hang_up()
    await asyncio.gather(client.call, return_exceptions=True)
    counts = counted.taken().counts
    assert {key: value for key, value in counts.items() if key[0] is REQUESTS} == {
        (REQUESTS, ("text_to_image", "cancelled")): 1
    }


async def test_only_work_counts() -> None:
    counted = Counted()
    transport = httpx.ASGITransport(counted.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/healthz", "/v1/models", "/v1/text-to-image", "/nowhere/a-member"):
            await client.get(path)
    assert not counted.taken().counts


async def test_every_outcome_is_known_before_the_first_request() -> None:
    counts = Counted().figures.take().counts
    assert {labels for figure, labels in counts if figure is REQUESTS} == {
        (pipeline, outcome) for pipeline in PIPELINES.values() for outcome in OUTCOMES
    }


def test_every_path_is_a_route() -> None:
    paths = Counted().api.openapi()["paths"]
    assert not [path for path in PIPELINES if "post" not in paths.get(path, {})]
