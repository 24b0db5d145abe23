"""The HTTP interface as a plain FastAPI application: what is wired to what. Knows no Ray and no torch."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from core.settings import RouterSettings
from core.types import ModelInfo
from serve_app import catalogue, health, openapi, problems, text_to_image
from serve_app.body_limit import BodyLimitMiddleware
from serve_app.pipelines import Pipelines
from serve_app.request_scope import RequestScopeMiddleware
from serve_app.schemas import Index
from serve_app.styles import load_styles

API_VERSION = "0.1.0"
_EXPOSED_HEADERS = ("Limner-Request-Id", "Limner-Seed", "Retry-After", "Server-Timing", "X-Request-ID")
_DESCRIPTION = """Avatars and illustrations from words.

Every error is an RFC 9457 problem (`application/problem+json`) with a stable `code`, which also carries
OpenAI's `error` object. What cannot be read is answered with 400; what was read but cannot be done with
422, naming the `field` and its `limit`; 503 with `Retry-After` means that the same request may succeed
later."""


def build_api(
    pipelines: Pipelines,
    models: tuple[ModelInfo, ...],
    settings: RouterSettings,
    *,
    echo_request_id: bool = True,
) -> FastAPI:
    """The application over ``pipelines``; the first of ``models`` is the default one.

    ``echo_request_id`` is off behind a proxy that puts ``x-request-id`` on responses itself, as Ray
    Serve's does.
    """
    app = FastAPI(
        title="Limner",
        version=API_VERSION,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_tags=openapi.TAGS,
    )
    problems.install(app)
    openapi.install(app, settings.limits)
    # The last one added is outermost: CORS headers belong on errors too.
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=settings.limits.max_body_bytes)
    app.add_middleware(RequestScopeMiddleware, echo_request_id=echo_request_id)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    styles = load_styles()
    index = Index(name="Limner", version=API_VERSION, links=catalogue.LINKS)
    app.include_router(text_to_image.build_router(pipelines, models, styles, settings.limits))
    app.include_router(catalogue.build_router(models, styles, index))
    app.include_router(catalogue.build_problem_router())
    app.include_router(health.build_router(pipelines))
    return app
