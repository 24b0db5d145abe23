"""Adapters in slots: held against PEFT's own merged networks, and who may stay when room is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor, nn

from core.errors import InvalidRequest
from deployments.engine.cpu_layers import use_cpu_layers
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.engine.lora_layers import LoraLinear
from deployments.engine.lora_rows import LoraRows
from tests.deployments.engine.lora_scenes import (
    ATTENTION,
    EVERYTHING,
    factors_of,
    merged,
    peft_unet,
    random_factors,
    relative_error,
)
from tests.deployments.engine.scenes import CONTEXT_DIM, small_unet

Stack = list[tuple[str, float]]


def config(rank: int, alpha: float, targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))


CONFIGS = {
    "attention": config(4, 4, ATTENTION),
    "everything": config(8, 16, EVERYTHING),
    "kernels": config(16, 8, ("conv1", "conv2")),
    "few": config(3, 1, ("to_q", "proj_in")),
    "wide": config(32, 32, ATTENTION),
}
ROWS: list[Stack] = [
    [("attention", 1.0)],
    [],
    [("everything", 0.7)],
    [("kernels", -0.5), ("attention", 0.4)],
    [("few", 1.5)],
    [("wide", 1.0)],
    [("attention", 1.0), ("everything", 0.5), ("kernels", 0.3), ("wide", 0.2)],
    [("everything", 1.0)],
]


def inputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(rows, 4, 8, 8, generator=generator)
    return sample, torch.arange(rows) * 100.0, torch.randn(rows, 5, CONTEXT_DIM, generator=generator)


@pytest.fixture(scope="module")
def by_peft() -> Any:
    return peft_unet(small_unet(), CONFIGS)


@pytest.fixture(scope="module")
def factors(by_peft: Any) -> dict[str, LoraFactors]:
    return {name: factors_of(by_peft, name) for name in CONFIGS}


def called(unet: Any, rows: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    sample, timestep, context = inputs(rows)
    with torch.inference_mode():
        output: Tensor = unet(sample.to(dtype), timestep, context.to(dtype), return_dict=False)[0]
    return output.float()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_mixed_batch_equals_peft_merged_row_by_row(
    by_peft: Any, factors: dict[str, LoraFactors], channels_last: bool
) -> None:
    unet = small_unet()
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    names, plain = list(unet.state_dict()), called(unet, 8)
    slots = LoraSlots(unet, len(CONFIGS))
    for each in factors.values():
        slots.check(each)
    rows = slots.rows(ROWS, factors)
    with slots.acting(rows):
        together = called(unet, 8)
    sample, timestep, context = inputs(8)
    for index, stack in enumerate(ROWS):
        own = slice(index, index + 1)
        with torch.inference_mode():
            expected = merged(by_peft, stack)(sample[own], timestep[own], context[own]).sample
        assert relative_error(together[own], expected) < 1e-4
        with torch.inference_mode(), slots.acting(slots.rows([stack], factors)):
            alone = unet(sample[own], timestep[own], context[own]).sample
        assert relative_error(together[own], alone) < 1e-4
    assert torch.equal(called(unet, 8), plain)
    assert list(unet.state_dict()) == names


def test_acts_in_the_fast_layers_of_a_cpu(factors: dict[str, LoraFactors]) -> None:
    exact, fast = small_unet(), small_unet().to(torch.bfloat16).to(memory_format=torch.channels_last)
    use_cpu_layers(fast)
    # So weak that bfloat16's errors are not multiplied on the way.
    rows = [[(name, 0.1 * weight) for name, weight in stack] for stack in ROWS]
    outputs = []
    for unet, dtype in ((exact, torch.float32), (fast, torch.bfloat16)):
        slots = LoraSlots(unet, len(CONFIGS))
        with slots.acting(slots.rows(rows, factors)):
            outputs.append(called(unet, 8, dtype=dtype))
    assert relative_error(outputs[1], outputs[0]) < 0.05
    assert relative_error(called(exact, 8), outputs[0]) > 0.2


def test_rows_without_adapters_leave_the_network_as_it_is(factors: dict[str, LoraFactors]) -> None:
    unet = small_unet()
    plain = called(unet, 3)
    slots = LoraSlots(unet, 4)
    with slots.acting(None):
        assert torch.equal(called(unet, 3), plain)
    with slots.acting(slots.rows([[], [("few", 0.0)], []], factors)):
        assert torch.equal(called(unet, 3), plain)
    assert not slots.resident
    assert {type(layer) for layer in unet.modules() if isinstance(layer, nn.Linear)} == {nn.Linear}
    slots.rows([[("few", 1.0)], [], []], factors)
    with slots.acting(slots.rows([[("nothing", 1.0)], [], []], {"nothing": {}})):
        assert torch.equal(called(unet, 3), plain)


def test_a_row_leaves_its_neighbours_unchanged(factors: dict[str, LoraFactors]) -> None:
    unet = small_unet()
    slots = LoraSlots(unet, 4)
    plain = called(unet, 3)
    broken = {path: (down, torch.full_like(up, 1e6)) for path, (down, up) in factors["few"].items()}
    with slots.acting(slots.rows([[], [("broken", 1.0)], []], {"broken": broken})):
        output = called(unet, 3)
    assert relative_error(output[[0, 2]], plain[[0, 2]]) < 1e-5
    assert relative_error(output[[1]], plain[[1]]) > 0.5


@pytest.mark.parametrize(
    ("ranks", "width"), [([1], 8), ([8], 8), ([9], 16), ([16, 17], 64), ([64], 64), ([64] * 4, 256)]
)
def test_the_batch_chooses_the_width(ranks: list[int], width: int) -> None:
    network = nn.Sequential(nn.Linear(4, 4))
    slots = LoraSlots(network, 4)
    own = {f"a{i}": {"0": (torch.ones(rank, 4), torch.ones(4, rank))} for i, rank in enumerate(ranks)}
    rows = slots.rows([[], [(name, 1.0) for name in own]], own)
    assert rows.lines.shape == rows.weights.shape == (2, width)
    assert not rows.lines[0].any()
    assert int(rows.weights[1].count_nonzero()) == sum(ranks)


def tiny_slots(num_slots: int) -> tuple[LoraSlots, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    return LoraSlots(network, num_slots), network


def tiny_factors(name: str) -> LoraFactors:
    """Every second of them targets one layer alone."""
    number = int(name)
    network = tiny_slots(1)[1]
    layers = random_factors(network, 1 + number % 3, number, targets=("0", "1"))
    return {path: layers[path] for path in list(layers)[: 1 + number % 2]}


def in_slots(slots: LoraSlots, *names: str) -> LoraRows:
    return slots.rows([[(name, 1.0)] for name in names], {name: tiny_factors(name) for name in names})


def layers_with_factors(network: nn.Module) -> int:
    """In how many layers factors are gathered."""
    return sum(layer.lora.down is not None for layer in network.modules() if isinstance(layer, LoraLinear))


def test_the_one_used_longest_ago_makes_way() -> None:
    slots, _ = tiny_slots(2)
    for names in (("0",), ("1",), ("0",), ("2",)):
        in_slots(slots, *names)
    assert slots.resident == {"0", "2"}
    assert (slots.num_loads, slots.num_hits) == (3, 1)


def test_those_of_living_rows_stay() -> None:
    slots, network = tiny_slots(2)
    first = in_slots(slots, "0")
    in_slots(slots, "1")
    in_slots(slots, "2")
    assert slots.resident == {"0", "2"}
    assert slots.fits(["0", "5"])
    assert not slots.fits(["5", "6"])
    with pytest.raises(ValueError, match="do not fit"):
        in_slots(slots, "5", "6")
    assert slots.resident == {"0", "2"}
    with slots.acting(first):
        changed = network(torch.ones(1, 4))
    assert layers_with_factors(network) == 1
    assert not torch.equal(changed, network(torch.ones(1, 4)))
    del first
    assert layers_with_factors(network) == 0
    in_slots(slots, "5", "6")
    assert slots.resident == {"5", "6"}


def test_a_forgotten_adapter_serves_its_rows_to_their_end() -> None:
    slots, network = tiny_slots(1)
    rows = in_slots(slots, "1")
    with slots.acting(rows):
        before = network(torch.ones(1, 4))
    slots.forget("1")
    slots.forget("never here")
    assert slots.resident == frozenset()
    assert not slots.fits(["2"])
    with slots.acting(rows):
        assert torch.equal(network(torch.ones(1, 4)), before)
    del rows
    assert slots.fits(["2"])
    in_slots(slots, "2")
    assert slots.resident == {"2"}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 7).map(str), max_size=2, unique=True), min_size=1, max_size=3),
        min_size=1,
        max_size=8,
    ),
    st.sets(st.integers(0, 7)),
)
def test_whatever_came_before_rows_get_their_own_adapters(
    calls: list[list[list[str]]], forgotten: set[int]
) -> None:
    slots, network = tiny_slots(6)
    own = {str(number): tiny_factors(str(number)) for number in range(8)}
    kept: list[LoraRows] = []
    for index, stacks in enumerate(calls):
        if not slots.fits({name for stack in stacks for name in stack}):
            kept.clear()
        kept.append(slots.rows([[(name, 0.5) for name in stack] for stack in stacks], own))
        if index in forgotten:
            slots.forget(str(index))
        sample = torch.randn(len(stacks), 4, generator=torch.Generator().manual_seed(index))
        with slots.acting(kept[-1]):
            output = network(sample)
        for row, stack in enumerate(stacks):
            x = sample[row]
            for path in ("0", "1"):
                layer: Any = network.get_submodule(path)
                added = sum(
                    0.5 * up @ (down @ x)
                    for down, up in (own[name][path] for name in stack if path in own[name])
                )
                x = layer.weight @ x + layer.bias + added
            torch.testing.assert_close(output[row], x, rtol=1e-4, atol=1e-5)
        assert len(slots.resident) <= 6


def test_refuses_layers_that_the_network_has_not_got(factors: dict[str, LoraFactors]) -> None:
    slots, _ = tiny_slots(1)
    with pytest.raises(InvalidRequest, match="no layer down_blocks") as refused:
        slots.check(factors["attention"])
    assert refused.value.field == "adapters"
    with pytest.raises(InvalidRequest, match="rank 65"):
        slots.check({"0": (torch.zeros(65, 4), torch.zeros(4, 65))})


def test_an_adapter_that_cannot_be_loaded_leaves_its_slot_free() -> None:
    slots, network = tiny_slots(1)
    good = tiny_factors("1")
    with pytest.raises(RuntimeError):
        slots.rows([[("bad", 1.0)]], {"bad": {"0": (torch.ones(2, 9), torch.ones(4, 2))}})
    assert slots.resident == frozenset()
    with slots.acting(slots.rows([[("1", 1.0)]], {"1": good})):
        output = network(torch.ones(1, 4))
    fresh, untouched = tiny_slots(1)
    with fresh.acting(fresh.rows([[("1", 1.0)]], {"1": good})):
        assert torch.equal(output, untouched(torch.ones(1, 4)))
