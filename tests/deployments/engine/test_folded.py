"""An adapter merged into packed weights acts as the same adapter on top of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from deployments.engine.folded import merged_weight
from deployments.engine.lean_unet import make_lean
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.engine.packed_layers import PackedConv2d, PackedLinear
from deployments.engine.unet import fast_unet
from tests.deployments.engine.lora_scenes import ATTENTION, EVERYTHING, random_factors, relative_error
from tests.deployments.engine.scenes import CONTEXT_DIM, small_unet

OWN = random_factors(small_unet(), 8, 0, EVERYTHING, size=0.1)
MEMBER = random_factors(small_unet(), 4, 1, (*ATTENTION, "conv1", "ff.net.0.proj"), size=0.15)
Stacks = list[list[tuple[str, float]]]
STACKS: dict[str, Stacks] = {
    "all alike": [[("own", 1.0)]] * 3,
    "a member's on top": [[("own", 1.0)], [("own", 1.0), ("member", 0.5)], [("own", 1.0)]],
    "mixed": [[("own", 1.0)], [], [("own", 1.0), ("member", 0.5)]],
    "half": [[("own", 0.5)]] * 3,
}


def inputs(size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, size, size, generator=generator)
    return x, torch.tensor([1.0, 500.0, 900.0]), torch.randn(3, 5, CONTEXT_DIM, generator=generator)


def exact(stacks: Stacks, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Row by row in float32, by diffusers, with the row's adapters merged into the weights."""
    adapters: Mapping[str, LoraFactors] = {"own": OWN, "member": MEMBER}
    outputs = []
    for row, stack in enumerate(stacks):
        unet = small_unet()
        for name, scale in stack:
            for path, (down, up) in adapters[name].items():
                weight = unet.get_submodule(path).get_parameter("weight")
                weight.copy_(merged_weight(weight, down, scale * up))
        outputs.append(unet(*(each[row : row + 1] for each in given)).sample)
    return torch.cat(outputs)


@pytest.mark.parametrize("size", [8, 12], ids=["native", "another size"])
@pytest.mark.parametrize("stacks", STACKS)
def test_rows_get_what_merged_weights_give(stacks: str, size: int) -> None:
    unet, dtype = fast_unet(small_unet(), "bfloat16", "cpu", torch.get_num_threads())
    slots = LoraSlots(unet, 2)
    slots.keep("own", OWN)
    given = inputs(size)
    x, timestep, context = given
    call: Any = (x.to(dtype), timestep, context.to(dtype))
    packed = [each for each in unet.modules() if isinstance(each, PackedLinear | PackedConv2d)]
    with torch.inference_mode():
        plain = unet(*call, return_dict=False)[0]
        with slots.acting(slots.rows(STACKS[stacks], {"member": MEMBER})):
            folded = {layer.packed.is_folded for layer in packed}
            got = unet(*call, return_dict=False)[0]
        again = unet(*call, return_dict=False)[0]
    assert (True in folded) == (stacks in ("all alike", "a member's on top"))
    assert torch.equal(plain, again)
    assert relative_error(got.float(), exact(STACKS[stacks], given)) < 0.03
    assert relative_error(got.float(), plain.float()) > 0.1


def test_a_copy_of_a_unet_has_a_fold_of_its_own() -> None:
    unet, dtype = fast_unet(small_unet(), "bfloat16", "cpu", torch.get_num_threads())
    slots = LoraSlots(unet, 2)
    slots.keep("own", OWN)
    copied = copy.deepcopy(unet)
    x, timestep, context = inputs(8)
    call: Any = (x.to(dtype), timestep, context.to(dtype))
    with torch.inference_mode():
        plain = unet(*call, return_dict=False)[0]
        with slots.acting(slots.rows(STACKS["all alike"], {})):
            assert torch.equal(copied(*call, return_dict=False)[0], plain)


def test_layers_without_packed_weights_add_it_as_ever() -> None:
    unet = small_unet()
    assert make_lean(unet)
    slots = LoraSlots(unet, 2)
    slots.keep("own", OWN)
    given: Any = inputs(8)
    with torch.inference_mode(), slots.acting(slots.rows(STACKS["all alike"], {})):
        got = unet(*given, return_dict=False)[0]
    assert relative_error(got, exact(STACKS["all alike"], given)) < 1e-4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_merged_weights_are_summed_before_they_are_rounded(layout: torch.memory_format) -> None:
    weight = torch.full((8, 4, 3, 3), 256.0).bfloat16().contiguous(memory_format=layout)
    merged = merged_weight(weight, torch.ones(1, 4, 3, 3), torch.full((8, 1, 1, 1), 0.75))
    assert merged.dtype == torch.bfloat16
    assert merged.is_contiguous(memory_format=layout)
    assert torch.equal(merged.float(), (torch.full((8, 4, 3, 3), 256.75)).bfloat16().float())
