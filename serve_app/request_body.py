"""The body of a route that takes pictures: JSON or a form, validated alike, off the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from core.errors import InvalidRequest, MalformedRequest, RequestCancelled, UnsupportedMediaType
from core.settings import RequestLimits
from serve_app.form import FormLimits, members_of, read_parts
from serve_app.negotiation import JSON

FORM = "multipart/form-data"
# Megabytes of JSON and base64 would hold up everybody else on the event loop. More threads would fight it
# for the interpreter's lock, and hold more copies at once.
_READERS = ThreadPoolExecutor(2, thread_name_prefix="uploads")
B = TypeVar("B", bound=BaseModel)


async def read_body(request: Request, model: type[B], limits: RequestLimits) -> B:
    """The body as a ``model``, its pictures checked by their headers.

    Raises:
        UnsupportedMediaType: if it calls itself neither JSON nor a form.
        MalformedRequest: if it is not what it calls itself.
        InvalidRequest, RequestValidationError: for members that are not as they must be.
    """
    media_type = _media_type(request)
    if media_type not in (JSON, FORM):
        raise UnsupportedMediaType(
            f"The body must be {JSON} or {FORM}.", field="Content-Type", limit=[JSON, FORM]
        )
    try:
        if media_type == FORM:
            parts = await read_parts(request, limits)
            return await _aside(lambda: _validated(members_of(parts, model), model, limits))
        body = await request.body()
        return await _aside(lambda: _validated(_parsed(body), model, limits))
    except ClientDisconnect as error:
        raise RequestCancelled("The client has disconnected.") from error


async def read_form(request: Request, model: type[B], limits: RequestLimits, form_limits: FormLimits) -> B:
    """The form as a ``model``, its pictures checked by their headers.

    Raises:
        UnsupportedMediaType, MalformedRequest: if it is no form.
        InvalidRequest, RequestValidationError: for members that are not as they must be.
    """
    if _media_type(request) != FORM:
        raise UnsupportedMediaType(f"The body must be {FORM}.", field="Content-Type", limit=FORM)
    try:
        parts = await read_parts(request, limits, form_limits)
    except ClientDisconnect as error:
        raise RequestCancelled("The client has disconnected.") from error
    return await _aside(lambda: _validated(members_of(parts, model), model, limits))


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _aside(work: Callable[[], B]) -> B:
    return await asyncio.get_running_loop().run_in_executor(_READERS, work)


def _parsed(body: bytes) -> Any:
    if not body:
        raise InvalidRequest("The request has no body.", field="body")
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not JSON, at character {error.pos}: {error.msg}.") from error
    except (ValueError, RecursionError) as error:
        # Not UTF-8, absurd numbers, nested too deeply.
        raise MalformedRequest("The body cannot be read as JSON.") from error


def _validated(members: Any, model: type[B], limits: RequestLimits) -> B:
    try:
        return model.model_validate(members, context=limits)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in found]) from error
