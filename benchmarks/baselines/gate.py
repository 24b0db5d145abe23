"""A bound on the requests that are inside an ASGI application: beyond it the answer is 503 at once.

Ray Serve and LitServe queue without bound by default, so that above capacity everybody waits for ever.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

# One at work and two that wait. Simulated with the embedded model's step times, limits of three times the
# standalone latency and 1 to 12 or any number inside, this gives each baseline its most answers in time over
# loads from 0.3 to 1.3, Poisson and bursty, or within 4 % of that: 2.7 times as many as without a bound.
MAX_INSIDE = 3


class Gate:
    """Counts requests to ``path`` from their first byte to their answer's last one; 0 is no bound."""

    def __init__(self, app: ASGIApp, max_inside: int, path: str = "/draw") -> None:
        self._app, self._max_inside, self._path = app, max_inside, path
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        if self._max_inside and self._inside >= self._max_inside:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"1")]})
            await send({"type": "http.response.body", "body": b"busy"})
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
