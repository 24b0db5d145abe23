"""Recorded calls of branches, and of the UNet with what they add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from deployments.engine.acceleration import Acceleration
from deployments.engine.branch import Branch, BranchInput, BranchSum, Residuals
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.graphed_branch import GraphedBranch
from deployments.engine.recordings import Output
from deployments.engine.request import noise_for
from tests.deployments.engine.scenes import CONTEXT_DIM, SCHEDULE, small_unet
from tests.deployments.engine.test_branch import BRUSH, branched_engine, brush, edges
from tests.deployments.engine.test_graphs import Tape, assert_same, drawn, wanted

# Latents, timesteps and text; a branch has its conditioning besides, the small UNet four places in the down
# path, one in the middle and, for a BrushNet, five in the up path.
ALONE, BRANCH, SKIP, STREAM = 3, 4, 3 + 5, 3 + 10
ROOM: dict[str, Any] = {"max_rows": 12, "adapter_slots": 4}


class Noted(Tape):
    """Tells what was recorded by the number of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.num_inputs: list[int] = []

    def __call__(self, call: Callable[..., Output], inputs: Sequence[Tensor]) -> Callable[[], Output]:
        self.num_inputs.append(len(inputs))
        return super().__call__(call, inputs)


def branched(request_id: str, seed: int, asked: BranchInput | None, *adapters: str, **changes: Any) -> Any:
    return wanted(request_id, seed, *adapters, branch=asked, num_inference_steps=60, **changes)


# Each lasts long enough for what its steps call to be worth a recording.
WAVES = (
    [branched("edges", 1, edges(scale=0.7, interval=(0.0, 0.7)), "narrow")],
    [branched("brush", 2, brush(scale=0.5), guidance_scale=1.0)],
    [branched("late", 3, brush(), guidance_interval=(0.0, 0.4))],
    [branched("plain", 4, None, guidance_scale=1.0)],
)
GAP = 14


def test_branches_come_and_go_and_pictures_stay_the_same() -> None:
    tape = Noted()
    own = branched_engine(acceleration=Acceleration(record=tape), **ROOM)
    assert_same(drawn(own, *WAVES, gap=GAP), drawn(branched_engine(**ROOM), *WAVES, gap=GAP))
    assert set(tape.num_inputs) == {ALONE, BRANCH, SKIP, STREAM, SKIP + STREAM - ALONE}


def test_residuals_reach_the_ports_of_a_unet_of_another_build() -> None:
    def own(**changes: Any) -> Engine:
        room: dict[str, Any] = {**ROOM, "max_queued_requests": 8, "cost": CostModel()}
        branches: dict[str, Branch] = {"brush": BRUSH}
        return Engine(
            small_unet(), SCHEDULE, dtype=torch.float32, device="cpu", branches=branches, **room, **changes
        )

    tape, waves = Noted(), [[wanted("brush", 3, branch=brush(), guidance_scale=1.0)]]
    assert_same(drawn(own(acceleration=Acceleration(record=tape)), *waves), drawn(own(), *waves))
    assert tape.num_inputs == [BRANCH, STREAM]


def inputs(rows: int) -> dict[str, Any]:
    return {
        "sample": noise_for(rows, (rows, 4, 8, 8)),
        "timestep": torch.full((rows,), 100.0 * rows),
        "context": noise_for(rows + 1, (rows, 7, CONTEXT_DIM)),
        "conditioning": noise_for(rows + 2, (rows, 5, 8, 8)),
        "added": None,
    }


def test_a_branch_is_padded_and_its_rows_are_those_at_hand() -> None:
    tape = Tape()
    branch = GraphedBranch(BRUSH, tape, 4)
    with torch.inference_mode():
        for rows in (3, 4) * 12 + (5,) * 12:
            got, expected = branch(**inputs(rows)), BRUSH(**inputs(rows))
            assert len(got.down) == len(expected.down)
            for one, other in zip(got.tensors, expected.tensors, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert tape.num_rows == [3, 4]


@pytest.mark.parametrize("missing", ["skip", "stream"])
def test_tensors_find_their_places_again(missing: str) -> None:
    def residuals(first: int, num_up: int) -> Residuals:
        every = [torch.full((1,), float(first + number)) for number in range(4 + num_up)]
        return Residuals.of(every, 3)

    whole = BranchSum(residuals(0, 0), residuals(10, 2))
    assert [int(each) for each in whole.tensors] == [0, 1, 2, 3, 10, 11, 12, 13, 14, 15]
    some = whole._replace(**{missing: None})
    for each in (whole, some):
        again = each.holding(tensor + 1 for tensor in each.tensors)
        assert [int(tensor) for tensor in again.tensors] == [int(tensor) + 1 for tensor in each.tensors]
        assert [one and (len(one.down), len(one.up)) for one in again] == [
            one and (len(one.down), len(one.up)) for one in each
        ]
