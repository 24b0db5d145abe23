"""The two probes."""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI

from serve_app import problems
from serve_app.health import build_router
from tests.serve_app.fakes import ScriptedPipeline, ScriptedPipelines, Service


class Stuck(ScriptedPipelines):
    """Never finds out whether it is ready."""

    async def ready(self) -> bool:
        await asyncio.Event().wait()
        raise AssertionError


async def test_the_process_is_alive_before_it_is_ready() -> None:
    service = Service(is_ready=False)
    assert (await service.client.get("/healthz")).json() == {"status": "ok"}
    answer = await service.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["code"] == "not_ready"
    assert int(answer.headers["retry-after"]) >= 1
    service.pipelines.is_ready = True
    assert (await service.client.get("/readyz")).json() == {"status": "ready"}


async def test_a_probe_that_hangs_is_not_ready() -> None:
    app = FastAPI()
    problems.install(app)
    app.include_router(build_router(Stuck(ScriptedPipeline()), ready_timeout_s=0.0))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/readyz")).status_code == 503
