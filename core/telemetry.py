"""Logging: one JSON object a line, with ids, counts and durations. Never a prompt, a picture or a name."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

_FIELDS = "limner_fields"


class JsonFormatter(logging.Formatter):
    """Renders a record and the fields given to :func:`log` as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: int = logging.INFO) -> None:
    """Write the records of this process below ``limner`` to stderr as JSON lines. May be called again."""
    root = logging.getLogger("limner")
    root.setLevel(level)
    root.propagate = False
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        root.addHandler(handler)


def logger(name: str) -> logging.Logger:
    """The logger of a module, below ``limner``."""
    return logging.getLogger(f"limner.{name}")


def log(to: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Log ``event`` with structured ``fields``."""
    to.log(level, event, extra={_FIELDS: fields})
