"""How large and of what type a request body may be. Counts what arrives, whatever its headers promise."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import PayloadTooLarge, UnsupportedMediaType
from serve_app.negotiation import JSON


class BodyLimitMiddleware:
    """Refuses a body of more than ``max_body_bytes``, chunked ones included, before it is read in full.

    ``by_path`` has the limits of the routes that take more.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, by_path: Mapping[str, int]) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = self._by_path.get(path, self._max_body_bytes)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
            raise _too_large(limit)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                # FastAPI would take any other exception for a syntax error in the body.
                raise HTTPException(PayloadTooLarge.status) from _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"A request body may have {limit} bytes.", field="body", limit=limit)


async def require_json(request: Request) -> None:
    """A dependency of routes that read JSON.

    Raises:
        UnsupportedMediaType: if the body calls itself anything else, or nothing.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise UnsupportedMediaType(f"The body must be {JSON}.", field="Content-Type", limit=JSON)
