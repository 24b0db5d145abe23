"""Rows that are computed in parts, a thread each, get what they get as one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from deployments.engine.branch import Residuals
from deployments.engine.brushnet import BrushNet
from deployments.engine.lean_unet import make_lean
from deployments.engine.lora import LoraSlots
from tests.deployments.engine.lora_scenes import EVERYTHING, random_factors
from tests.deployments.engine.scenes import small_unet
from tests.deployments.engine.unet_scenes import FAMILIES, built, inputs


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


def test_adapters_act_on_the_rows_that_a_thread_computes() -> None:
    """Four rows of which each has its own adapters, in parts and as one."""
    own = random_factors(small_unet(), 4, 1, EVERYTHING, size=0.1)
    member = random_factors(small_unet(), 4, 0, EVERYTHING, size=0.3)
    rows = [[("m", 1.0)], [("own", 0.5)], [], [("m", -0.5), ("own", 1.0)]]
    generator = torch.Generator().manual_seed(3)
    x, context = (torch.randn(4, *shape, generator=generator) for shape in ((4, 8, 8), (5, 8)))
    outputs = []
    for split in (False, True):
        unet = small_unet()
        assert make_lean(unet, split_rows=split)
        slots = LoraSlots(unet, 2)
        slots.keep("own", own)
        with torch.inference_mode(), slots.acting(slots.rows(rows, {"m": member})):
            outputs.append(unet(x, torch.tensor([10, 500, 900, 1]), context, return_dict=False)[0])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("branch", ["none", "skip", "stream"])
def test_rows_in_parts_equal_rows_as_one(branch: str) -> None:
    unet = built(FAMILIES["SD XL"])
    whole = inputs(unet, 16, 16)
    added = {name: each[:2] for name, each in whole["added_cond_kwargs"].items()}
    given = {name: whole[name][:2] for name in ("sample", "timestep", "encoder_hidden_states")}
    shapes = BrushNet.from_unet(unet)(*given.values(), torch.zeros(2, 5, 16, 16), added)
    given |= {"added_cond_kwargs": added, "return_dict": False}
    generator = torch.Generator().manual_seed(2)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    residuals = Residuals(tuple(map(drawn, shapes.down)), drawn(shapes.mid), tuple(map(drawn, shapes.up)))
    if branch == "skip":
        given["down_block_additional_residuals"] = list(residuals.down)
        given["mid_block_additional_residual"] = residuals.mid
    elif branch == "stream":
        given["stream"] = residuals
    outputs = []
    for split in (False, True):
        copied = built(FAMILIES["SD XL"])
        assert make_lean(copied, split_rows=split)
        with torch.inference_mode():
            outputs.append(copied(**given)[0])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
