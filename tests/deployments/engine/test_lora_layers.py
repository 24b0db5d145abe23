"""A layer with every row's own factors computes what the rows' merged weights compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core.errors import InvalidRequest
from deployments.engine.lora_layers import Gate, check_layer, is_target, switch
from tests.deployments.engine.lora_scenes import relative_error

NUM_SLOTS, MAX_RANK = 4, 8


def factors(layer: nn.Linear | nn.Conv2d, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *layer.weight.shape[1:], generator=generator)
    return 0.3 * down, torch.randn(len(layer.weight), rank, generator=generator)


def expected(layer: nn.Linear | nn.Conv2d, inputs: Tensor, rows: list[list[tuple[int, float]]]) -> Tensor:
    """Row by row, with the factors of slot ``n`` (rank and seed ``n``) merged into a copy of the weights."""
    outputs = []
    for own, stack in zip(inputs, rows, strict=True):
        weight = layer.weight.double()
        for slot, scale in stack:
            down, up = (each.double() for each in factors(layer, slot, slot))
            weight = weight + scale * (up @ down.reshape(slot, -1)).reshape(weight.shape)
        bias = None if layer.bias is None else layer.bias.double()
        row = own[None].double()
        if isinstance(layer, nn.Conv2d):
            outputs.append(torch.conv2d(row, weight, bias, layer.stride, layer.padding, layer.dilation))
        else:
            outputs.append(torch.nn.functional.linear(row, weight, bias))
    return torch.cat(outputs)


ROWS: list[list[tuple[int, float]]] = [[(1, 1.0)], [], [(3, -0.5), (1, 2.0)], [(2, 0.7)]]
LAYERS: dict[str, tuple[Callable[[], nn.Linear | nn.Conv2d], tuple[int, ...]]] = {
    "tokens": (lambda: nn.Linear(6, 10), (4, 5, 6)),
    "no bias": (lambda: nn.Linear(6, 10, bias=False), (4, 5, 6)),
    "one vector a row": (lambda: nn.Linear(6, 10), (4, 6)),
    "maps of vectors": (lambda: nn.Linear(6, 10), (4, 2, 3, 6)),
    "kernel": (lambda: nn.Conv2d(6, 10, 3, padding=1), (4, 6, 7, 5)),
    "kernel with stride": (lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1), (4, 6, 8, 8)),
    "dilated kernel": (lambda: nn.Conv2d(6, 10, (3, 1), padding=(2, 0), dilation=2), (4, 6, 8, 8)),
    "one pixel": (lambda: nn.Conv2d(6, 10, 1), (4, 6, 7, 5)),
    "one pixel with stride": (lambda: nn.Conv2d(6, 10, 1, stride=2), (4, 6, 7, 5)),
    "a map of one pixel": (lambda: nn.Conv2d(6, 10, 3, padding=1), (4, 6, 1, 1)),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_merged_weights(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().to(dtype).requires_grad_(False)
    inputs = torch.randn(shape).to(dtype)
    if channels_last and len(shape) == 4:
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = inputs.to(memory_format=torch.channels_last)
    wanted, gate = expected(layer, inputs, ROWS), Gate()
    plain = layer(inputs)
    slots = switch(layer, NUM_SLOTS, MAX_RANK, gate)
    for slot in (1, 2, 3):
        slots.fill(slot, *factors(layer, slot, slot))
    lines, weights = torch.zeros(4, 8, dtype=torch.long), torch.zeros(4, 8)
    for row, stack in enumerate(ROWS):
        start = 0
        for slot, scale in stack:
            lines[row, start : start + slot] = slot * MAX_RANK + torch.arange(slot)
            weights[row, start : start + slot] = scale
            start += slot
    slots.gather(lines, weights)
    assert torch.equal(layer(inputs), plain)
    gate.open = True
    output = layer(inputs)
    assert (output.shape, output.dtype) == (plain.shape, dtype)
    assert relative_error(output, wanted) < (1e-5 if dtype == torch.float32 else 2e-2)
    slots.release()
    assert torch.equal(layer(inputs), plain)


def test_refilling_a_slot_leaves_nothing_of_what_was_there() -> None:
    layer, gate = nn.Linear(6, 10).requires_grad_(False), Gate()
    inputs = torch.randn(1, 3, 6)
    plain = layer(inputs)
    slots = switch(layer, NUM_SLOTS, MAX_RANK, gate)
    gate.open = True
    slots.fill(1, *factors(layer, 8, 0))
    slots.fill(1, *factors(layer, 2, 2))
    slots.gather(torch.arange(MAX_RANK, 2 * MAX_RANK)[None], torch.ones(1, MAX_RANK))
    assert relative_error(layer(inputs) - plain, expected(layer, inputs, [[(2, 1.0)]]) - plain) < 1e-4
    slots.clear(1)
    slots.gather(torch.arange(MAX_RANK, 2 * MAX_RANK)[None], torch.ones(1, MAX_RANK))
    assert torch.equal(layer(inputs), plain)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(2, 2), True),
        (nn.Conv2d(2, 2, 3), True),
        (nn.Conv2d(2, 2, 3, padding="same"), False),
        (nn.Conv2d(2, 2, 1, padding=1), False),
        (nn.Conv2d(2, 2, 3, groups=2), False),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), False),
        (nn.Conv1d(2, 2, 3), False),
        (nn.LayerNorm(2), False),
    ],
)
def test_which_layers_carry_factors(layer: nn.Module, expected: bool) -> None:
    assert is_target(layer) is expected


def misfit(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    linear, conv = nn.Linear(6, 10), nn.Conv2d(6, 10, 3)
    cases: dict[str, tuple[nn.Module, Tensor, Tensor]] = {
        "rank 0": (linear, torch.zeros(0, 6), torch.zeros(10, 0)),
        "rank over the limit": (linear, torch.zeros(9, 6), torch.zeros(10, 9)),
        "a number": (linear, torch.zeros(()), torch.zeros(10, 1)),
        "other input": (linear, torch.zeros(2, 7), torch.zeros(10, 2)),
        "other output": (linear, torch.zeros(2, 6), torch.zeros(9, 2)),
        "two ranks": (linear, torch.zeros(2, 6), torch.zeros(10, 3)),
        "other kernel": (conv, torch.zeros(2, 6, 1, 1), torch.zeros(10, 2, 1, 1)),
        "kernel above": (conv, torch.zeros(2, 6, 3, 3), torch.zeros(10, 2, 3, 3)),
        "infinite": (linear, torch.full((2, 6), math.inf), torch.zeros(10, 2)),
        "not a number": (linear, torch.zeros(2, 6), torch.full((10, 2), math.nan)),
        "integers": (linear, torch.zeros(2, 6, dtype=torch.int64), torch.zeros(10, 2)),
    }
    return cases[name]


@pytest.mark.parametrize(
    "name",
    [
        "rank 0",
        "rank over the limit",
        "a number",
        "other input",
        "other output",
        "two ranks",
        "other kernel",
        "kernel above",
        "infinite",
        "not a number",
        "integers",
    ],
)
def test_refuses_what_does_not_fit_and_names_the_layer(name: str) -> None:
    layer, down, up = misfit(name)
    with pytest.raises(InvalidRequest, match="some layer") as refused:
        check_layer("some layer", layer, down, up, MAX_RANK)
    assert refused.value.field == "adapters"
