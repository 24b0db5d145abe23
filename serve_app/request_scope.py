"""What every request gets: an id, its time, safe headers, and a problem for a traceback. Knows no routes."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.telemetry import log, logger
from serve_app import problems

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_log = logger("request")


class RequestScopeMiddleware:
    """Takes over the client's ``x-request-id`` where it is sane, and draws one where it is not.

    ``echo_request_id`` is off behind a proxy that adds the header to the response itself.
    """

    def __init__(self, app: ASGIApp, echo_request_id: bool = True) -> None:
        self._app = app
        self._echo = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _SANE_ID.fullmatch(offered) else uuid.uuid4().hex
        scope["limner.request_id"] = request_id
        scope["limner.began"] = time.monotonic()
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

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if started:
                # Half an answer is out, so all that is left is to break the connection.
                log(_log, logging.ERROR, "broken_answer", request_id=request_id, kind=type(error).__name__)
                raise
            await problems.respond(error, request_id)(scope, receive, send_with_headers)
