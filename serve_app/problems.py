"""The one place that turns an exception into HTTP: RFC 9457 problems with an OpenAI ``error`` inside.

A body that cannot be read is 400, a member with a bad value 422. Problem types are relative references,
``/problems/CODE``, which ``serve_app.catalogue`` explains, or ``about:blank``.
"""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.errors import InvalidRequest, LimnerError, MalformedRequest, NotFound
from core.telemetry import log, logger
from serve_app.traffic import ending_of

MEDIA_TYPE = "application/problem+json"
_MAX_ERRORS = 20
_MAX_FIELD_CHARS = 100
_MAX_FRAMES = 12
# Where pydantic keeps the bound that a value broke.
_BOUNDS = ("le", "lt", "ge", "gt", "max_length", "min_length", "multiple_of", "limit")
_log = logger("problems")


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one member of a request, which ``limit`` bounds."""

    field: str | None
    message: str
    limit: Any = None


def type_of(code: str) -> str:
    """The ``type`` of problems with the ``code`` of a ``LimnerError``."""
    return f"/problems/{code}"


def known_error(error: BaseException, request_id: str) -> LimnerError:
    """The ``LimnerError`` that ``error`` is or, as Ray does, wraps.

    Any other error becomes an anonymous one, and is logged by its kind and place, since its text may hold
    a prompt.
    """
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, LimnerError):
        return error
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    place = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    log(_log, logging.ERROR, "unhandled_error", request_id=request_id, kind=type(error).__name__, place=place)
    return LimnerError("Something went wrong here. The log knows it by the request id.")


def problem(error: LimnerError, request_id: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    """The members of the problem that ``error`` is."""
    if not errors and error.field is not None:
        errors = (FieldError(error.field, error.message, error.limit),)
    return _members(
        kind=type_of(error.code),
        code=error.code,
        title=error.title,
        status=error.status,
        detail=error.message,
        request_id=request_id,
        retryable=error.retryable,
        errors=errors,
    )


def _members(
    *,
    kind: str,
    code: str,
    title: str,
    status: int,
    detail: str,
    request_id: str,
    retryable: bool = False,
    errors: Sequence[FieldError] = (),
) -> dict[str, Any]:
    first = errors[0] if errors else FieldError(None, detail)
    return {
        "type": kind,
        "title": title,
        "status": status,
        "detail": detail,
        "instance": f"urn:limner:request:{request_id}",
        "code": code,
        "retryable": retryable,
        "field": first.field,
        "limit": first.limit,
        "errors": [{"field": item.field, "message": item.message, "limit": item.limit} for item in errors],
        "error": {
            "message": detail,
            "type": "server_error" if status >= 500 else "invalid_request_error",
            "code": code,
            "param": first.field,
        },
    }


def respond(error: BaseException, request_id: str) -> Response:
    """The response that ``error`` is."""
    known = known_error(error, request_id)
    return _response(problem(known, request_id), _retry_after(known))


def _retry_after(error: LimnerError) -> dict[str, str]:
    if error.retry_after_s is None:
        return {}
    return {"Retry-After": str(max(0, math.ceil(error.retry_after_s)))}


def _response(members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    # ASCII, since member names that a client made up may hold lone surrogates.
    content = json.dumps(members, default=str).encode("ascii")
    told = {**(headers or {}), "Cache-Control": "no-store"}
    return _ProblemResponse(members["code"], content, members["status"], told)


class _ProblemResponse(Response):
    """A problem that notes its code as the request's ending, whoever rendered it."""

    media_type = MEDIA_TYPE

    def __init__(self, code: str, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(content, status, headers)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ending_of(scope).problem(self.status_code, self._code)
        await super().__call__(scope, receive, send)


def request_id_of(request: Request) -> str:
    """The id that ``serve_app.request_scope`` gave the request."""
    return str(request.scope.get("limner.request_id", ""))


async def _on_limner_error(request: Request, error: Exception) -> Response:
    return respond(error, request_id_of(request))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request_id = request_id_of(request)
    if isinstance(error.__cause__, LimnerError):
        return respond(error.__cause__, request_id)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # What FastAPI raises for a body that is not UTF-8, is nested too deeply, or holds absurd numbers.
        return respond(MalformedRequest("The body cannot be read as JSON."), request_id)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return respond(NotFound("There is nothing at this address."), request_id)
    status = HTTPStatus(error.status_code)
    members = _members(
        # RFC 9457: a problem that says no more than its status.
        kind="about:blank",
        code=status.name.lower(),
        title=status.phrase,
        status=status.value,
        detail=str(error.detail),
        request_id=request_id,
    )
    return _response(members, error.headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    request_id = request_id_of(request)
    found = error.errors()
    for item in found:
        if item["type"] == "json_invalid":
            where = item["loc"][-1]
            return respond(
                MalformedRequest(f"The body is not JSON, at character {where}: {item['ctx']['error']}."),
                request_id,
            )
    errors = [_field_error(item) for item in found[:_MAX_ERRORS]]
    detail = "; ".join(f"{item.field}: {item.message}" for item in errors[:3])
    return _response(problem(InvalidRequest(detail), request_id, errors))


def _field_error(item: Mapping[str, Any]) -> FieldError:
    place = item["loc"][1:] if item["loc"][0] in ("body", "query", "path", "header") else item["loc"]
    field = ".".join(str(part) for part in place)[:_MAX_FIELD_CHARS] or str(item["loc"][0])
    bounds = item.get("ctx", {})
    limit = next((bounds[name] for name in _BOUNDS if name in bounds), None)
    if item["type"] == "enum":
        limit = re.findall(r"'([^']*)'", bounds["expected"])
    return FieldError(field, item["msg"], limit)


def install(app: FastAPI) -> None:
    """Have ``app`` render every exception that it knows. The rest is up to ``serve_app.request_scope``."""
    app.add_exception_handler(LimnerError, _on_limner_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
