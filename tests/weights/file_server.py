"""A real HTTP server on loopback with byte ranges, entity tags, redirects, and faults on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What it serves and what was asked of it.

    ``cut_after`` ends that many answers early, each after so many bytes; ``ranges`` False ignores ranges;
    ``sizes`` False leaves the length out.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    ranges: bool = True
    sizes: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    served = FileServer(files=files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(served: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append((self.path, self.headers.get("Range")))
            if self.path in served.redirects:
                self.send_response(302)
                self.send_header("Location", served.redirects[self.path])
                self.end_headers()
                return
            if self.path in served.statuses or self.path not in served.files:
                self.send_error(served.statuses.get(self.path, 404))
                return
            self._send(served.files[self.path])

        def _send(self, whole: bytes) -> None:
            tag = f'"{sha256(whole).hexdigest()}"'
            start = self._start(tag)
            if start >= len(whole) > 0 and start:
                self.send_error(416)
                return
            rest = whole[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", tag)
            if served.sizes:
                self.send_header("Content-Length", str(len(rest)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
            self.end_headers()
            # A client that refuses what it sees hangs up.
            with suppress(ConnectionError):
                self.wfile.write(rest[: served.cut_after.pop(0)] if served.cut_after else rest)

        def _start(self, tag: str) -> int:
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            same = self.headers.get("If-Range") in (None, tag)
            return int(match[1]) if match and same and served.ranges else 0

        def log_message(self, format: str, *args: object) -> None:
            """Tests look at ``requests`` instead."""

    return Handler
