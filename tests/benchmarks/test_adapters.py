"""The adapters benchmark: its command line, its arithmetic, and that its sides compute the same."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.adapters import (
    PLAIN,
    Rows,
    SlotsSide,
    Workload,
    compare,
    gather_ms,
    parse,
    sides_of,
    table,
)
from tests.deployments.engine.scenes import small_unet
from tests.fakes import VirtualClock

WORK = Workload(
    model=None,
    device="cpu",
    precision="float32",
    rows=3,
    rank=4,
    peft=(2,),
    repeats=2,
    num_threads=1,
    clock=time.perf_counter,
)


def test_defaults_are_the_goal_of_the_project() -> None:
    work = parse([])
    assert (work.rows, work.rank, work.peft, work.device) == (16, 16, (2, 4, 8, 16), "cpu")
    assert work.model is not None
    assert work.model.name == "mini"
    assert parse(["--sd15", "--device", "cuda", "--rows", "32"]).model is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rows", "0"], "must be 1 or more"),
        (["--model", "nowhere"], "no model in nowhere"),
        (["--model", "nowhere", "--sd15"], "not allowed with"),
    ],
)
def test_refuses_bad_arguments(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(arguments)
    assert complaint in capsys.readouterr().err


def test_speed_is_a_share_of_the_call_beside_it() -> None:
    clock = VirtualClock()

    def side(*seconds: float) -> object:
        left = list(seconds)

        def call() -> Tensor:
            clock.advance(left.pop(0))
            return torch.zeros(1)

        return call

    # Every second call counts.
    sides = {
        PLAIN: side(9, 1, 9, 2, 9, 1),
        "slow": side(9, 2, 9, 4, 9, 2),
        "even": side(1, 1, 1, 2, 1, 50),
    }
    result = compare(sides, replace(WORK, repeats=3, clock=clock))  # type: ignore[arg-type]
    assert result["ms"] == {PLAIN: 1_000, "slow": 2_000, "even": 2_000}
    assert result["speed"] == {PLAIN: 1.0, "slow": 0.5, "even": 1.0}
    assert "50.0%" in table(result)


def test_the_sides_run_on_one_unet() -> None:
    unet = small_unet()
    with torch.inference_mode():
        rows = Rows(unet, torch.float32, WORK)
        plain = rows(unet)
        sides = dict(sides_of(rows, WORK))
        outputs = {name: call() for name, call in sides.items()}
        ours = [side for side in sides.values() if isinstance(side, SlotsSide)]
        assert gather_ms(ours[0], ours[1], WORK) > 0
    assert list(sides)[1] == PLAIN
    assert torch.equal(outputs.pop(PLAIN), plain)
    assert len(outputs) == 3
    for output in outputs.values():
        assert not torch.allclose(output, plain, atol=1e-3)
