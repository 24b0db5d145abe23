"""What every request gets: an id, its time, safe headers, and a problem for a traceback. Knows no routes."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.telemetry import log, logger
from core.tracing import Tracing
from serve_app import problems
from serve_app.traces import begin_span, end_span
from serve_app.traffic import Traffic, begin

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_log = logger("request")


class RequestScopeMiddleware:
    """Takes over the client's ``x-request-id`` where it is sane, and draws one where it is not.

    ``echo_request_id`` is off behind a proxy that adds the header to the response itself. ``traffic`` counts
    how requests end, ``tracing`` records spans of some.
    """

    def __init__(
        self,
        app: ASGIApp,
        echo_request_id: bool = True,
        traffic: Traffic | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._echo = echo_request_id
        self._traffic = traffic
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _SANE_ID.fullmatch(offered) else uuid.uuid4().hex
        scope["limner.request_id"] = request_id
        began = scope["limner.began"] = time.monotonic()
        ending = begin(scope)
        span = begin_span(self._tracing, scope)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if self._echo:
                    headers["X-Request-ID"] = request_id
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ending.all_sent = True

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if started:
                # Half an answer is out, so all that is left is to break the connection.
                log(_log, logging.ERROR, "broken_answer", request_id=request_id, kind=type(error).__name__)
                ending.problem(500, "broken_answer")
                raise
            await problems.respond(error, request_id)(scope, receive, send_with_headers)
        finally:
            if self._traffic is not None:
                self._traffic.ended(scope, ending, time.monotonic() - began)
            if span is not None:
                end_span(span, ending)
