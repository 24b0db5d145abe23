"""Is the process alive, and would the pipelines take a request? Knows nothing of how they find out."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from core.errors import NotReady
from serve_app.openapi import problem_responses
from serve_app.pipelines import Pipelines
from serve_app.schemas import Health

# Kubernetes gives up on a probe after a second or a few; an answer is better than none.
READY_TIMEOUT_S = 2.0
_RETRY_AFTER_S = 2.0


def build_router(pipelines: Pipelines, ready_timeout_s: float = READY_TIMEOUT_S) -> APIRouter:
    """The two probes."""
    router = APIRouter(tags=["operations"])

    @router.get("/healthz", operation_id="get_health", summary="Is the process alive?")
    async def get_health() -> Health:
        return Health(status="ok")

    @router.get(
        "/readyz",
        operation_id="get_readiness",
        summary="Would a request be taken now?",
        responses=problem_responses(NotReady),
    )
    async def get_readiness() -> Health:
        try:
            async with asyncio.timeout(ready_timeout_s):
                ready = await pipelines.ready()
        except TimeoutError:
            ready = False
        if not ready:
            raise NotReady("The models are still loading.", retry_after_s=_RETRY_AFTER_S)
        return Health(status="ready")

    return router
