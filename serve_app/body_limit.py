"""How large and of what type a request body may be. Counts what arrives, whatever its headers promise."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import PayloadTooLarge, UnsupportedMediaType
from serve_app.negotiation import JSON


class BodyLimitMiddleware:
    """Refuses a body of more than ``max_body_bytes``, chunked ones included, before it is read in full."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_body_bytes:
            raise self._too_large()
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                # FastAPI would take any other exception for a syntax error in the body.
                raise HTTPException(PayloadTooLarge.status) from self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"A request body may have {self._max_body_bytes} bytes.", field="body", limit=self._max_body_bytes
        )


async def require_json(request: Request) -> None:
    """A dependency of routes that read JSON.

    Raises:
        UnsupportedMediaType: if the body calls itself anything else, or nothing.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise UnsupportedMediaType(f"The body must be {JSON}.", field="Content-Type", limit=JSON)
