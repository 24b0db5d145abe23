"""Serves folders of this machine to a build, over HTTP on loopback and for as long as it lasts.

A mounted folder would leave an empty one in the image, and Docker's builds mount none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Shelf(SimpleHTTPRequestHandler):
    """Answers by absolute path, for what is below one of ``folders``."""

    def __init__(self, *args: Any, folders: Sequence[Path], **options: Any) -> None:
        self.folders = [folder.resolve() for folder in folders]
        super().__init__(*args, directory="/", **options)

    def send_head(self) -> Any:
        wanted = Path(self.translate_path(self.path)).resolve()
        if not any(wanted.is_relative_to(folder) for folder in self.folders):
            self.send_error(404)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads what pip asks for."""


@contextmanager
def served(folders: Sequence[Path]) -> Iterator[str]:
    """Serve ``folders`` and all below them. Yields the URL that stands before their absolute paths."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Shelf, folders=folders)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
