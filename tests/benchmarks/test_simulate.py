"""The command: what it refuses, and that each of its parts prints a report."""

from __future__ import annotations

import json

import pytest

from benchmarks.simulate import main, parse


@pytest.mark.parametrize(
    "arguments",
    [["sweep", "--gpus", "0"], ["day", "--scale", "2"], ["day", "--hours", "5", "4"], ["nothing"]],
)
def test_refuses_what_makes_no_sense(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(arguments)


def test_a_sweep_compares_both_engines(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "--gpus", "1", "4", "--loads", "0.5", "--requests", "400"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["gpus"] for each in report["results"]] == [1, 1, 4, 4]
    for result in report["results"]:
        assert result["arrived"] == result["done"] + result["refused"] + result["running"]


def test_hours_of_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "day",
        "--hours",
        "0",
        "0.25",
        "--scale",
        "0.005",
        "--systems",
        "0",
        "5",
        "--usd-per-hour",
        "1",
    ]
    main(arguments)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["system"].split(",")[0] for each in report["results"]] == ["limner", "one at a time"]
    assert all(each["gpu_hours"] > 0 for each in report["results"])
    assert report["usd_per_hour"] == 1.0
