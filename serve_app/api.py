"""The HTTP interface as a plain FastAPI application: what is wired to what. Knows no Ray and no torch."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from core.figures import Figures
from core.settings import RouterSettings
from core.tracing import Tracing
from core.types import ModelInfo
from serve_app import (
    adapter_files,
    adapters,
    catalogue,
    gender_swap,
    health,
    image_to_image,
    inpaint,
    jobs,
    mask,
    openapi,
    problems,
    text_to_image,
    upscale,
)
from serve_app.adapter_schemas import ADAPTERS
from serve_app.body_limit import BodyLimitMiddleware
from serve_app.offer import Offer
from serve_app.pipelines import Pipelines
from serve_app.prompt_rules import load_prompt_rules
from serve_app.records import Records
from serve_app.request_scope import RequestScopeMiddleware
from serve_app.schemas import Index
from serve_app.styles import load_styles
from serve_app.traffic import Traffic
from serve_app.trainer import Trainer

API_VERSION = "0.1.0"
_EXPOSED_HEADERS = (
    "Content-Disposition",
    "ETag",
    "Limner-Mask-Coverage",
    "Limner-Request-Id",
    "Limner-Seed",
    "Location",
    "Retry-After",
    "Server-Timing",
    "X-Request-ID",
)
_DRAWING_ROUTES = (text_to_image, image_to_image, inpaint, gender_swap, upscale)
# The paths of routes that take pictures, whose bodies may be larger.
_UPLOAD_PATHS = ("/v1/image-to-image", "/v1/inpaint", "/v1/gender-swap", "/v1/upscale", "/v1/mask")
_DESCRIPTION = """Avatars and illustrations from words and pictures.

Every error is an RFC 9457 problem (`application/problem+json`) with a stable `code`, which also carries
OpenAI's `error` object. What cannot be read is answered with 400; what was read but cannot be done with
422, naming the `field` and its `limit`; 503 with `Retry-After` means that the same request may succeed
later.

What is a member's own, adapters and jobs, is there for nobody else: `X-Limner-User` says who asks."""


def build_api(
    pipelines: Pipelines,
    trainer: Trainer,
    records: Records,
    models: tuple[ModelInfo, ...],
    settings: RouterSettings,
    *,
    prompt_rules: bool = False,
    echo_request_id: bool = True,
    figures: Figures | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application over ``pipelines``; the first of ``models`` is the default one.

    ``records`` are what the store knows of members' adapters and jobs, which ``trainer`` changes.
    ``prompt_rules`` is whether prompts have to keep the rules of ``prompt_rules.toml``.
    ``echo_request_id`` is off behind a proxy that puts ``x-request-id`` on responses itself, as Ray
    Serve's does. ``figures`` take in how requests end, ``tracing`` spans of some.
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
    _add_middleware(app, settings, echo_request_id, None if figures is None else Traffic(figures), tracing)
    styles = load_styles()
    index = Index(name="Limner", version=API_VERSION, links=catalogue.LINKS)
    offer = Offer(models, styles, settings.limits, load_prompt_rules() if prompt_rules else None)
    for route in _DRAWING_ROUTES:
        app.include_router(route.build_router(pipelines, offer, records))
    app.include_router(mask.build_router(pipelines, offer))
    app.include_router(adapters.build_router(trainer, offer, records))
    app.include_router(adapter_files.build_router(trainer, records))
    app.include_router(jobs.build_router(trainer, records, settings.job_poll_s))
    app.include_router(catalogue.build_router(models, styles, index))
    app.include_router(catalogue.build_problem_router())
    app.include_router(health.build_router(pipelines))
    return app


def _add_middleware(
    app: FastAPI,
    settings: RouterSettings,
    echo_request_id: bool,
    traffic: Traffic | None,
    tracing: Tracing | None,
) -> None:
    # The last one added is outermost: CORS headers belong on errors too.
    limits = settings.limits
    app.add_middleware(
        BodyLimitMiddleware,
        max_body_bytes=limits.max_body_bytes,
        by_path={
            **dict.fromkeys(_UPLOAD_PATHS, limits.max_upload_body_bytes),
            ADAPTERS: limits.max_training_body_bytes,
            f"{ADAPTERS}/import": limits.max_adapter_bytes + limits.max_body_bytes,
        },
    )
    app.add_middleware(
        RequestScopeMiddleware, echo_request_id=echo_request_id, traffic=traffic, tracing=tracing
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
