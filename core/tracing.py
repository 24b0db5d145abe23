"""Traces by OpenTelemetry, for those who switch them on. Knows spans and their parents; not what they are of.

The library is imported when tracing is on, and never before. Attributes hold ids, counts and words of the
code: never a prompt, a member or a picture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from core.errors import LimnerError
from core.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Value: TypeAlias = "str | int | float | bool"


class TracingUnavailable(LimnerError):
    """Tracing is on, and the library that sends traces is not installed."""

    code, title = "tracing_unavailable", "Tracing unavailable"


class Span:
    """A span that is recorded. Times are ``time.monotonic``, so that stages can be told afterwards."""

    def __init__(self, tracing: Tracing, name: str, context: Any, began: float | None = None) -> None:
        self._tracing = tracing
        self._span = tracing.tracer.start_span(name, context, start_time=_epoch_ns(began))
        self._ended = False

    @property
    def is_sampled(self) -> bool:
        return bool(self._span.is_recording())

    @property
    def traceparent(self) -> str:
        """The W3C header that makes spans elsewhere its children."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def note(self, **attributes: Value) -> None:
        """Attributes, ``limner.`` in front of their names."""
        for name, value in attributes.items():
            self._span.set_attribute(f"limner.{name}", value)

    def event(self, name: str, **attributes: Value) -> None:
        """Something that happens now."""
        self._span.add_event(name, {f"limner.{key}": value for key, value in attributes.items()})

    def stage(self, name: str, began: float, ended: float) -> None:
        """A child that is over already."""
        from opentelemetry import trace

        child = Span(self._tracing, name, trace.set_span_in_context(self._span), began)
        child.end(at=ended)

    def end(self, error_type: str | None = None, at: float | None = None) -> None:
        """``error_type`` is an error's code or kind: its words may hold a prompt. The first call counts."""
        if self._ended:
            return
        self._ended = True
        if error_type is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", error_type)
            self._span.set_status(StatusCode.ERROR)
        self._span.end(_epoch_ns(at))


class Tracing:
    """What a process records spans with. ``exporter`` gets them in batches, or each at once for tests."""

    def __init__(self, ratio: float, exporter: SpanExporter, *, batches: bool = True) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": "limner"}),
        )
        provider.add_span_processor((BatchSpanProcessor if batches else SimpleSpanProcessor)(exporter))
        self.tracer = provider.get_tracer("limner")

    def begin(self, name: str, traceparent: str | None = None, began: float | None = None) -> Span | None:
        """A span below that of ``traceparent``, or a new trace; None for one that is not sampled."""
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {} if traceparent is None else {"traceparent": traceparent}
        # An empty context: whatever else traces this process is no parent of ours.
        context = TraceContextTextMapPropagator().extract(carrier, Context())
        span = Span(self, name, context, began)
        return span if span.is_sampled else None

    @contextmanager
    def within(self, name: str, traceparent: str | None) -> Iterator[Span | None]:
        """A span around a part of a request whose beginning is traced; None for any other."""
        span = None if traceparent is None else self.begin(name, traceparent)
        if span is None:
            yield None
            return
        try:
            yield span
        except BaseException as error:
            span.end(error.code if isinstance(error, LimnerError) else type(error).__name__)
            raise
        else:
            span.end()


def tracing_of(settings: TracingSettings) -> Tracing | None:
    """What ``settings`` ask for; None, at no cost, while no endpoint is named.

    Raises :class:`TracingUnavailable`.
    """
    if settings.endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise TracingUnavailable("Tracing needs pip install 'limner[tracing]'.") from error
    return Tracing(settings.ratio, OTLPSpanExporter(settings.endpoint, timeout=settings.timeout_s))


def _epoch_ns(monotonic: float | None) -> int | None:
    """A moment of ``time.monotonic`` as nanoseconds since the epoch; None stays "now"."""
    return None if monotonic is None else time.time_ns() - int((time.monotonic() - monotonic) * 1e9)
