"""That costs can be measured, and that the file of those measured is what the arithmetic reads."""

from __future__ import annotations

import json

import pytest

from benchmarks.fleet import costs
from benchmarks.fleet.limits import what_breaks
from benchmarks.limits import COSTS, main, parse


def test_jobs_are_written_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "_NUM_JOBS", 2)
    measured = costs.store_costs()
    assert measured["job_wall_ms"] > 0
    assert measured["poll_ms"] > 0


def test_the_measured_file_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["limits"] == what_breaks(json.loads(COSTS.read_text()), 5.5)
    assert report["machine"]


def test_refuses_a_line_through_one_point(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--sizes", "4"])
    assert "two sizes" in capsys.readouterr().err
