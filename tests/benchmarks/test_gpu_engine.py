"""The program that measures the engine at full size, at toy size."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import built
from benchmarks.gpu_engine import WAYS, acceleration, lines
from tests.deployments.engine.test_graphs import Tape

CPU = torch.device("cpu")


def test_a_line_for_each_way_and_number_of_requests() -> None:
    unet, tape = built("sd15", CPU, torch.float32, toy=True), Tape()
    ways = WAYS[:3]
    told = list(lines(unet, CPU, torch.float32, ways, [1], 12, tape))
    assert [(line["way"], line["requests"]) for line in told] == [(way, 1) for way in ways]
    for line in told:
        assert line["rows_per_s"] == pytest.approx(2 * line["requests"] * line["steps_per_s"], rel=0.02)
        assert line["psnr_db"] is None or line["psnr_db"] > 60
    assert tape.num_played >= 2 * 12


def test_the_last_way_is_that_of_a_replica_that_compiles() -> None:
    own = acceleration(WAYS[-1], Tape())
    assert own.record is not None
    assert own.compile == "default"
