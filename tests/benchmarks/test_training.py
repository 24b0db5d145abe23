"""The training benchmark takes real steps of both kinds."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import training


def test_it_measures_both(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "--batch", "1", "--steps", "1"])
    monkeypatch.setattr(training, "_ROUNDS", 1)
    monkeypatch.setattr(training, "_WARM_UP", 0)
    training.main()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["shape"] == "mini"
    assert set(report["results"][0]["steps_per_s"]) == {"limner", "diffusers_example"}
    assert min(report["results"][0]["steps_per_s"].values()) > 0


def test_the_command_line_refuses_no_batch() -> None:
    with pytest.raises(SystemExit):
        training.parse(["--batch", "0"])
