"""The OpenAPI document: problem responses, the limits of this installation, and ``/docs`` without a CDN."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema

from core.errors import LimnerError
from core.settings import RequestLimits
from serve_app import problems
from serve_app.schemas import Problem

_ASSETS = "/docs/assets"
_REFERENCE = "#/components/schemas/{model}"
TAGS = [
    {"name": "generate", "description": "Pictures from words."},
    {"name": "catalogue", "description": "What a request may name."},
    {"name": "operations", "description": "For whoever keeps the service running."},
]


def problem_responses(*kinds: type[LimnerError]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may raise ``kinds``."""
    by_status: dict[int | str, list[type[LimnerError]]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.status].append(kind)
    return {status: _problem_response(same) for status, same in sorted(by_status.items(), key=str)}


def _problem_response(kinds: list[type[LimnerError]]) -> dict[str, Any]:
    examples = {
        kind.code: {
            "summary": kind.title,
            "value": problems.problem(kind(summary_of(kind)), "7c9e6679f7de4a4f"),
        }
        for kind in kinds
    }
    content = {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}, "examples": examples}
    response: dict[str, Any] = {
        "description": " ".join(f"`{kind.code}`: {summary_of(kind)}" for kind in kinds),
        "content": {problems.MEDIA_TYPE: content},
    }
    if any(kind.retryable for kind in kinds):
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait, where known.", "schema": {"type": "integer"}}
        }
    return response


def summary_of(kind: type[LimnerError]) -> str:
    """What an error means, in one line."""
    return (kind.__doc__ or kind.title).strip().partition("\n")[0].replace("``", "`")


def install(app: FastAPI, limits: RequestLimits) -> None:
    """Serve the document at ``/openapi.json`` and Swagger UI at ``/docs``, with assets from this machine."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, limits)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{app.title} API",
            swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
        )


def _document(app: FastAPI, limits: RequestLimits) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=TAGS,
    )
    schemas = document["components"]["schemas"]
    _, definitions = models_json_schema([(Problem, "serialization")], ref_template=_REFERENCE)
    schemas.update(definitions["$defs"])
    members = schemas["TextToImageRequest"]["properties"]
    for name in ("prompt", "negative_prompt"):
        members[name]["maxLength"] = limits.max_prompt_chars
    for name, maximum in (
        ("num_inference_steps", limits.max_num_inference_steps),
        ("guidance_scale", limits.max_guidance_scale),
        ("n", limits.max_images),
        ("preview_every", limits.max_num_inference_steps),
        ("deadline_s", limits.max_deadline_s),
    ):
        _number(members[name])["maximum"] = maximum
    return document


def _number(member: dict[str, Any]) -> dict[str, Any]:
    """The numeric alternative of a member that may be null."""
    alternatives: list[dict[str, Any]] = member.get("anyOf", [member])
    return next(alternative for alternative in alternatives if alternative["type"] != "null")
