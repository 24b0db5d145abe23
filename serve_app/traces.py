"""The Router's span of a request, and how it reaches the pipeline. Knows ASGI scopes; no exporter."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import Scope

from core.specs import GenerationSpec
from core.tracing import Span, Tracing
from serve_app.traffic import FAILED, Ending, pipeline_of

S = TypeVar("S", bound=GenerationSpec)

_KEY = "limner.span"


def begin_span(tracing: Tracing | None, scope: Scope) -> Span | None:
    """The span of a request of a pipeline, below the client's own one; None for one that is not traced."""
    if tracing is None or (pipeline := pipeline_of(scope)) is None:
        return None
    span = tracing.begin(f"POST {pipeline}", Headers(scope=scope).get("traceparent"))
    if span is not None:
        span.note(pipeline=pipeline, request_id=scope["limner.request_id"])
        scope[_KEY] = span
    return span


def end_span(span: Span, ending: Ending) -> None:
    """The request has ended like that."""
    outcome = ending.outcome
    span.note(outcome=outcome)
    if ending.predicted_s is not None:
        span.note(predicted_s=ending.predicted_s)
    if ending.code is not None:
        span.note(code=ending.code)
    span.end(ending.code if outcome == FAILED else None)


def with_trace(scope: Scope, spec: S) -> S:
    """``spec`` with the trace of its request, where there is one."""
    span = scope.get(_KEY)
    return replace(spec, traceparent=span.traceparent) if isinstance(span, Span) else spec
