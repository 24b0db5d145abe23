"""The OpenAPI document: problem responses, the limits of this installation, and ``/docs`` without a CDN."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from core.errors import LimnerError
from core.settings import RequestLimits
from serve_app import problems
from serve_app.adapter_requests import ImportRequest, TrainingRequest
from serve_app.edit_requests import (
    GenderSwapRequest,
    ImageToImageRequest,
    InpaintRequest,
    MaskRequest,
    UpscaleRequest,
)
from serve_app.negotiation import JSON
from serve_app.request_body import FORM
from serve_app.schemas import Problem

_ASSETS = "/docs/assets"
_REFERENCE = "#/components/schemas/{model}"
# FastAPI documents the models of the bodies that it reads itself; these are read by ``request_body``.
_EDIT_REQUESTS: tuple[type[BaseModel], ...] = (
    ImageToImageRequest,
    MaskRequest,
    InpaintRequest,
    GenderSwapRequest,
    UpscaleRequest,
)
_FORMS: tuple[type[BaseModel], ...] = (TrainingRequest, ImportRequest)
TAGS = [
    {"name": "generate", "description": "Pictures from words."},
    {"name": "edit", "description": "Pictures from pictures, sent as JSON with base64 or as a form."},
    {"name": "adapters", "description": "A member's own subjects: trained from photos, or brought along."},
    {"name": "jobs", "description": "Trainings, from the queue to the adapter."},
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


def request_body(
    model: type[BaseModel], examples: Mapping[str, tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that reads ``model`` as JSON or as a form.

    ``examples`` are a summary and the members by name.
    """
    shown = {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}
    json_body = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}, "examples": shown}
    form = {"schema": {"$ref": _REFERENCE.format(model=_form_name(model.__name__))}, "examples": shown}
    return {"requestBody": {"required": True, "content": {JSON: json_body, FORM: form}}}


def form_body(model: type[BaseModel], examples: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that reads ``model`` as a form alone."""
    shown = {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}
    form = {"schema": {"$ref": _REFERENCE.format(model=_form_name(model.__name__))}, "examples": shown}
    return {"requestBody": {"required": True, "content": {FORM: form}}}


def _form_name(name: str) -> str:
    return name.removesuffix("Request") + "Form"


def _form_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The same members with pictures as files; an object is a part of type JSON by OpenAPI's rules."""
    return {
        **schema,
        "title": _form_name(schema["title"]),
        "properties": {name: _as_part(member) for name, member in schema["properties"].items()},
    }


def _as_part(member: dict[str, Any]) -> dict[str, Any]:
    alternatives = member.get("anyOf", [member])
    if member.get("type") == "array":
        if "$ref" not in member["items"]:
            return member | {"items": _as_part(member["items"])}
        kept = {name: member[name] for name in ("title", "description") if name in member}
        return kept | {"type": "string", "contentMediaType": JSON, "contentSchema": member}
    if any("contentEncoding" in alternative for alternative in alternatives):
        kept = {name: member[name] for name in ("title", "description") if name in member}
        return kept | {"type": "string", "format": "binary"}
    return member


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
    read_by_routes = (*_EDIT_REQUESTS, *_FORMS)
    wanted = [(Problem, "serialization"), *((model, "validation") for model in read_by_routes)]
    _, definitions = models_json_schema(wanted, ref_template=_REFERENCE)  # type: ignore[arg-type]
    schemas.update(definitions["$defs"])
    for name in ("TextToImageRequest", *(model.__name__ for model in _EDIT_REQUESTS)):
        _bound(schemas[name]["properties"], limits)
    for model in _EDIT_REQUESTS:
        schemas[_form_name(model.__name__)] = _form_schema(schemas[model.__name__])
    for model in _FORMS:
        schemas[_form_name(model.__name__)] = _form_schema(schemas.pop(model.__name__))
    training = schemas[_form_name(TrainingRequest.__name__)]["properties"]
    for name in ("num_steps", "sample_every"):
        _number(training[name])["maximum"] = limits.max_training_steps
    return document


def _bound(members: dict[str, Any], limits: RequestLimits) -> None:
    """Add the limits of this installation to the members that have them."""
    for name in {"prompt", "negative_prompt"} & set(members):
        members[name]["maxLength"] = limits.max_prompt_chars
    for name, maximum in (
        ("num_inference_steps", limits.max_num_inference_steps),
        ("guidance_scale", limits.max_guidance_scale),
        ("n", limits.max_images),
        ("preview_every", limits.max_num_inference_steps),
        ("deadline_s", limits.max_deadline_s),
    ):
        if name in members:
            _number(members[name])["maximum"] = maximum


def _number(member: dict[str, Any]) -> dict[str, Any]:
    """The numeric alternative of a member that may be null."""
    alternatives: list[dict[str, Any]] = member.get("anyOf", [member])
    return next(alternative for alternative in alternatives if alternative["type"] != "null")
