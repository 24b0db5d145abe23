"""The GPU benchmark at toy size on a CPU: its sides compute the same, its arithmetic is right."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks.gpu import SIDES, Subject, adapters_cost, built, calls_of, main, parse, table, tflop_of

CPU = torch.device("cpu")
EAGER = ["diffusers", "limner"]


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def subject(request: pytest.FixtureRequest) -> Subject:
    torch.manual_seed(0)
    return Subject(built(request.param, CPU, torch.float32, toy=True), CPU, torch.float32, repeats=1)


@pytest.mark.parametrize("rows", [1, 3])
def test_sides_compute_the_same(subject: Subject, rows: int) -> None:
    with torch.inference_mode():
        outputs = [call() for _, call in calls_of(subject, EAGER, rows)]
    assert outputs[0].shape == (rows, 4, 8, 8)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    assert "forward" not in vars(subject.unet)


def test_operations_grow_with_rows(subject: Subject) -> None:
    with torch.inference_mode():
        assert tflop_of(subject, 4) == pytest.approx(4 * tflop_of(subject, 1), rel=0.01)


def test_a_line_says_what_was_reached(subject: Subject) -> None:
    with torch.inference_mode():
        lines = table(subject, EAGER, [2], peak=1.0)
    assert [line["side"] for line in lines] == EAGER
    for line in lines:
        assert line["rows_per_s"] == pytest.approx(2 * line["steps_per_s"], rel=0.01)


def test_adapters_leave_the_unet_as_it_was(subject: Subject) -> None:
    given = subject.inputs(2)
    with torch.inference_mode():
        before = subject.unet(**given)[0]
        assert adapters_cost(subject, 2) > -1
        assert torch.equal(subject.unet(**given)[0], before)


def test_all_sides_are_measured_unless_told() -> None:
    assert parse([]).sides == list(SIDES)
    with pytest.raises(SystemExit):
        parse(["--sides", "another"])


def test_the_last_line_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--toy", "--rows", "2", "--repeats", "1", "--sides", "diffusers", "limner"]
    )
    main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["benchmark"] == "gpu"
    assert [line["side"] for line in told["lines"]] == EAGER
    assert told["pictures_per_s"] > 0
