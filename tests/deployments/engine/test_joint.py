"""Layers of one input as one product compute what each computes alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deployments.engine.folded import Fold
from deployments.engine.joint import Joint
from deployments.engine.lora_layers import Gate, switch


def layers(bias: bool) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, width, bias=bias).requires_grad_(False) for width in (8, 8, 12)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_layers_one_by_one(bias: bool, packed: bool) -> None:
    own, input = layers(bias), torch.randn(2, 5, 6)
    expected = [layer(input) for layer in own]
    joint = Joint(own)
    if packed:
        joint.pack()
    for got, alone, wanted in zip(joint(input), own, expected, strict=True):
        torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(alone(input), wanted)


def test_the_weights_are_in_memory_once() -> None:
    own = layers(True)
    Joint(own)
    for tensors in ([layer.weight for layer in own], [layer.bias for layer in own]):
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_an_adapter_on_one_layer_changes_that_one(packed: bool) -> None:
    own, input, gate = layers(False), torch.randn(2, 5, 6), Gate()
    joint = Joint(own)
    if packed:
        joint.pack()
    slots = switch(own[1], 2, 2, gate)
    slots.fill(1, torch.ones(2, 6), torch.ones(8, 2))
    slots.gather(torch.tensor([[2, 3], [0, 0]]), torch.ones(2, 2))
    plain = joint(input)
    gate.open = True
    assert joint.is_adapted
    first, second, third = joint(input)
    torch.testing.assert_close((first, third), (plain[0], plain[2]))
    torch.testing.assert_close(second[0], plain[1][0] + 2 * input[0].sum(-1, keepdim=True))
    torch.testing.assert_close(second[1], plain[1][1])


def test_merged_weights_stand_in_while_the_fold_is_on() -> None:
    own, input, fold = layers(True), torch.randn(2, 5, 6), Fold()
    joint = Joint(own)
    joint.pack()
    joint.fold(fold, {own[1]: own[1].weight + 1})
    plain = joint(input)
    fold.on = True
    assert joint.is_folded
    first, second, third = joint(input)
    torch.testing.assert_close((first, third), (plain[0], plain[2]))
    torch.testing.assert_close(second, plain[1] + input.sum(-1, keepdim=True))
    fold.on = False
    assert torch.equal(joint(input)[1], plain[1])
