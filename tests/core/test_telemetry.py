"""A log line is one JSON object with the given fields."""

import json
import logging

import pytest

from core.telemetry import JsonFormatter, configure, log, logger


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def test_fields_become_members() -> None:
    target, lines = logger("test_telemetry"), Lines()
    target.addHandler(lines)
    log(target, logging.ERROR, "denoised", request_id="r1", steps=20)
    try:
        raise ValueError("lost")
    except ValueError:
        target.exception("failed")
    first, second = (json.loads(line) for line in lines.lines)
    assert (first["event"], first["request_id"], first["steps"]) == ("denoised", "r1", 20)
    assert first["level"] == "error"
    assert first["logger"] == "limner.test_telemetry"
    assert "ValueError: lost" in second["exception"]


def test_configuring_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger("limner")
    before = root.handlers[:], root.propagate, root.level
    root.handlers.clear()
    try:
        configure()
        configure()
        log(logger("test_telemetry"), logging.INFO, "once")
    finally:
        root.handlers[:], root.propagate, root.level = before
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["once"]
