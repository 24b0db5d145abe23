"""The Router's span of a request: its parent, its end, and what the pipeline hears of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import StatusCode

from core.errors import GenerationFailed, QueueFull
from core.settings import RouterSettings
from serve_app.api import build_api
from serve_app.records import Records
from tests.serve_app.fakes import MINI, ScriptedPipeline, ScriptedPipelines, Step
from tests.serve_app.small_trainer import SmallTrainer
from tests.spans import (
    PARENT_ID,
    SAMPLED,
    TRACE_ID,
    UNSAMPLED,
    KeptSpans,
    attributes,
    id_of,
    parent_of,
    trace_of,
)

BODY = {"prompt": "portrait of a secret"}


class Traced:
    """The API over a pipeline that follows ``script``, with its spans."""

    def __init__(self, *script: Step, ratio: float = 0.0) -> None:
        self.kept = KeptSpans(ratio)
        self.pipeline = ScriptedPipeline(*script)
        trainer = SmallTrainer(None)
        self.api: FastAPI = build_api(
            ScriptedPipelines(self.pipeline),
            trainer,
            Records(lambda: trainer.store),
            (MINI,),
            RouterSettings(),
            tracing=self.kept.tracing,
        )

    async def post(self, traceparent: str | None = SAMPLED, **members: Any) -> httpx.Response:
        headers = {"X-Limner-User": "anna", "X-Request-Id": "mine"}
        headers |= {} if traceparent is None else {"traceparent": traceparent}
        transport = httpx.ASGITransport(self.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/text-to-image", json=BODY | members, headers=headers)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_a_span_below_its_clients(stream: bool) -> None:
    traced = Traced()
    (await traced.post(stream=stream)).raise_for_status()
    (span,) = traced.kept.spans
    assert span.name == "POST text_to_image"
    assert (trace_of(span), parent_of(span)) == (TRACE_ID, PARENT_ID)
    found = attributes(span)
    assert found.pop("limner.predicted_s") > 0
    assert found == {
        "limner.pipeline": "text_to_image",
        "limner.request_id": "mine",
        "limner.outcome": "completed",
    }
    (spec,) = traced.pipeline.specs
    assert spec.traceparent == f"00-{TRACE_ID}-{id_of(span)}-01"


@pytest.mark.parametrize("traceparent", [None, UNSAMPLED])
async def test_what_nobody_samples_leaves_no_trace(traceparent: str | None) -> None:
    traced = Traced()
    (await traced.post(traceparent)).raise_for_status()
    assert traced.kept.spans == ()
    assert traced.pipeline.specs[0].traceparent is None


async def test_some_requests_are_sampled_without_being_asked_to() -> None:
    traced = Traced(ratio=1.0)
    (await traced.post(None)).raise_for_status()
    assert parent_of(traced.kept.spans[0]) is None


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (GenerationFailed("a secret"), "failed", StatusCode.ERROR),
        (QueueFull("a secret"), "refused", StatusCode.UNSET),
    ],
)
async def test_how_it_ended_is_told(error: Any, outcome: str, status: StatusCode) -> None:
    traced = Traced(error)
    await traced.post()
    (span,) = traced.kept.spans
    assert attributes(span)["limner.outcome"] == outcome
    assert attributes(span)["limner.code"] == error.code
    assert span.status.status_code is status
    assert "secret" not in span.to_json()
    assert "anna" not in span.to_json()
