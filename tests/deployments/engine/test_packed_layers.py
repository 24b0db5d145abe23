"""Layers with packed weights compute what the layers they replace compute."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import nn

from deployments.engine.packed_layers import pack_layers


def packed(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Any, Any, torch.Tensor]:
    """A layer in bfloat16, a packed copy of it, and an input."""
    torch.manual_seed(3)
    plain = layer.to(torch.bfloat16).requires_grad_(False)
    input = torch.randn(shape).bfloat16()
    if len(shape) == 4:
        plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        input = input.to(memory_format=torch.channels_last)
    network: Any = nn.Sequential(copy.deepcopy(plain))
    pack_layers(network, {network[0]: (8, 8)} if isinstance(layer, nn.Conv2d) else {})
    assert type(network[0]) is not type(plain)
    assert network[0].state_dict().keys() == plain.state_dict().keys()
    return plain, network[0], input


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(24, 40), (3, 7, 24)),
        (nn.Linear(24, 40, bias=False), (3, 24)),
        (nn.Conv2d(24, 40, 3, padding=1), (3, 24, 8, 8)),
        (nn.Conv2d(24, 40, 3, padding=1), (1, 24, 12, 6)),
        (nn.Conv2d(24, 40, 3, stride=2, padding=1), (3, 24, 8, 8)),
        (nn.Conv2d(24, 40, 1), (1, 24, 5, 7)),
    ],
    ids=["tokens", "no bias", "native map", "another map", "stride", "one pixel"],
)
def test_a_packed_layer_computes_the_same(layer: nn.Module, shape: tuple[int, ...]) -> None:
    plain, fast, input = packed(layer, shape)
    with torch.inference_mode():
        expected = plain(input)
        torch.testing.assert_close(fast(input), expected)
        residual = torch.randn_like(expected)
        kept = residual.clone()
        # Added before the sum is rounded, not after.
        exact = copy.deepcopy(plain).float()(input.float()) + residual.float()
        torch.testing.assert_close(fast.plus(input, residual).float(), exact, rtol=1e-2, atol=2e-2)
        assert torch.equal(residual, kept)


def test_a_packed_gate_computes_the_same() -> None:
    plain, fast, input = packed(GEGLU(24, 40), (3, 7, 24))
    with torch.inference_mode():
        exact = copy.deepcopy(plain).float()(input.float())
        torch.testing.assert_close(fast(input).float(), exact, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv1d(4, 4, 3)]
)
def test_other_layers_are_not_packed(layer: nn.Module) -> None:
    network = nn.Sequential(layer.to(torch.bfloat16))
    pack_layers(network, {layer: (8, 8)})
    assert network[0] is layer
    assert type(layer) in (nn.Conv1d, nn.Conv2d)
