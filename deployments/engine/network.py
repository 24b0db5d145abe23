"""The UNet with the branches beside it, called as one network, and what a call of either costs.

Knows modules and tensors; does not know requests, samplers or the order of service.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from deployments.engine.added import added_shapes
from deployments.engine.branch import Branch
from deployments.engine.conditioning import Layout, residuals_of
from deployments.engine.cost import CostModel
from deployments.engine.lean_unet import is_lean
from deployments.engine.lora import LoraFactors, LoraRows, LoraSlots
from deployments.engine.ports import ResidualPorts
from deployments.engine.request import FEW_STEP
from deployments.engine.work import BatchKey

# Rows of a guided request.
_GUIDED = 2
_TYPICAL, _TYPICAL_RANK = "typical", 16
_ADAPTED_ROWS = 8
# From here on a call is measured once, and more rows or adapters are not: a start would take an hour.
_SLOW_MS = 3_000.0
_ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")


class UNet(Protocol):
    """What the engine calls: a diffusers ``UNet2DConditionModel`` or anything with its signature."""

    config: Any

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        *,
        added_cond_kwargs: dict[str, Tensor] | None,
        return_dict: bool,
    ) -> tuple[Tensor, ...]: ...


class Network:
    """A UNet, its branches and its adapters.

    A call without rows that use a branch or an adapter is a call of the UNet alone. ``slots`` is None
    where ``num_slots``, the number of adapters that fit at a time, is 0 and there is no ``few_step``, the
    factors of the model's own adapter. Raises InvalidRequest if that does not fit.
    """

    def __init__(
        self,
        unet: UNet,
        branches: Mapping[str, Branch] | None = None,
        num_slots: int = 0,
        few_step: LoraFactors | None = None,
    ) -> None:
        self.unet = unet
        self.slots = None
        if num_slots or few_step is not None:
            self.slots = LoraSlots(cast("nn.Module", unet), num_slots)
        if self.slots is not None and few_step is not None:
            self.slots.keep(FEW_STEP, few_step)
        # The rows of the layout that was called last alone keep adapters in their slots.
        self._adapted: weakref.ref[Layout] | None = None
        self._rows: LoraRows | None = None
        self.branches = dict(branches or {})
        streams = any(branch.style == "stream" for branch in self.branches.values())
        self._ports = ResidualPorts(unet) if streams and not is_lean(unet) else None

    def __call__(self, sample: Tensor, timestep: Tensor, layout: Layout) -> Tensor:
        """The model's output ``[rows, channels, h, w]`` for scaled latents of that shape.

        Raises what the model, the device or an adapter that does not fit raises.
        """
        with self._adapters_of(layout):
            return self._output(sample, timestep, layout)

    def _adapters_of(self, layout: Layout) -> AbstractContextManager[None]:
        if self.slots is None or not any(layout.adapters):
            return nullcontext()
        if self._adapted is None or self._adapted() is not layout:
            self._adapted = self._rows = None
            self._rows = self.slots.rows(layout.adapters, layout.factors)
            self._adapted = weakref.ref(layout)
        return self.slots.acting(self._rows)

    def _output(self, sample: Tensor, timestep: Tensor, layout: Layout) -> Tensor:
        widened = sample if layout.extra is None else torch.cat([sample, layout.extra], 1)

        def call(**residuals: Any) -> Tensor:
            return self.unet(
                widened,
                timestep,
                layout.context,
                added_cond_kwargs=layout.added,
                return_dict=False,
                **residuals,
            )[0]

        if not layout.calls:
            return call()
        skip, stream = residuals_of(layout.calls, self.branches, sample, timestep)
        skips = (
            {}
            if skip is None
            else {
                "down_block_additional_residuals": skip.down,
                "mid_block_additional_residual": skip.mid,
            }
        )
        if stream is None:
            return call(**skips)
        if self._ports is None:
            return call(**skips, stream=stream)
        with self._ports.adding(stream):
            return call(**skips)


def native_key(config: Any) -> BatchKey:
    """The shape that a UNet of this diffusers configuration was trained for."""
    size, num_tokens = config.sample_size, 77
    return BatchKey(
        config.in_channels, size, size, num_tokens, config.cross_attention_dim, added_shapes(config)
    )


def measure_step_ms(
    unet: UNet, key: BatchKey, rows: int, dtype: torch.dtype, device: torch.device, *, repeats: int = 3
) -> float:
    """Milliseconds of one UNet call with ``rows`` rows of this shape.

    The least of ``repeats`` calls, after one that is not measured unless it is the only one.
    """
    sample = _zeros(rows, key.channels, key.height, key.width, dtype=dtype, device=device)
    context = torch.zeros(rows, key.num_tokens, key.context_dim, dtype=dtype, device=device)
    added = _zero_conditions(key, rows, dtype, device)
    timestep = torch.ones(rows, device=device)
    return _least_ms(
        lambda: unet(sample, timestep, context, added_cond_kwargs=added, return_dict=False)[0],
        repeats,
    )


def measure_branch_ms(
    branch: Branch,
    key: BatchKey,
    latent_channels: int,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    repeats: int = 3,
) -> float:
    """Milliseconds of one call of ``branch`` beside a UNet of this shape, measured in the same way."""
    factor = branch.conditioning_factor
    sample = _zeros(rows, latent_channels, key.height, key.width, dtype=dtype, device=device)
    conditioning = _zeros(
        rows,
        branch.conditioning_channels,
        key.height * factor,
        key.width * factor,
        dtype=dtype,
        device=device,
    )
    context = torch.zeros(rows, key.num_tokens, branch.context_dim, dtype=dtype, device=device)
    added = _zero_conditions(key, rows, dtype, device)
    timestep = torch.ones(rows, device=device)
    return _least_ms(lambda: branch(sample, timestep, context, conditioning, added).mid, repeats)


def calibrate(
    cost: CostModel,
    network: Network,
    key: BatchKey,
    max_rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Measure a step at several row counts of a shape, and what each branch, a typical adapter and the
    model's few-step adapter add to a row.

    Where a step is slow the device is full with few rows, and more of them cost in proportion.
    """
    step_ms = 0.0
    for rows in sorted({1, max_rows, *(2**i for i in range(1, max_rows.bit_length()))}):
        step_ms = measure_step_ms(network.unet, key, rows, dtype, device)
        cost.calibrate(key, rows, step_ms)
        if step_ms > _SLOW_MS:
            break
    channels = network.unet.config.out_channels
    for name, branch in network.branches.items():
        ms = measure_branch_ms(branch, key, channels, _GUIDED, dtype, device)
        cost.calibrate_branch(name, ms / cost.step_ms(key, _GUIDED))
    slots = network.slots
    if slots is None or step_ms > _SLOW_MS:
        return
    num_rows = min(max_rows, _ADAPTED_ROWS)
    if slots.num_slots:
        rows = slots.rows([[(_TYPICAL, 1.0)]] * num_rows, {_TYPICAL: _typical_factors(network.unet)})
        cost.calibrate_adapters(_adapter_share(network.unet, slots, rows, key, dtype, device))
        slots.forget(_TYPICAL)
    if FEW_STEP in slots.kept:
        rows = slots.rows([[(FEW_STEP, 1.0)]] * num_rows, {})
        cost.calibrate_few_step(_adapter_share(network.unet, slots, rows, key, dtype, device))


def _adapter_share(
    unet: UNet,
    slots: LoraSlots,
    rows: LoraRows,
    key: BatchKey,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """What the adapters of ``rows`` add to a row, as a share of what the row costs without."""
    num_rows = rows.num_rows
    plain_ms = adapted_ms = math.inf
    # In turns, so that other load on the machine hits both alike.
    for _ in range(2):
        plain_ms = min(plain_ms, measure_step_ms(unet, key, num_rows, dtype, device, repeats=1))
        with slots.acting(rows):
            adapted_ms = min(adapted_ms, measure_step_ms(unet, key, num_rows, dtype, device, repeats=1))
    return max(adapted_ms / plain_ms - 1, 0.0)


def _typical_factors(unet: Any) -> LoraFactors:
    """An adapter as most are: for the attention layers. Its factors are zeros."""
    return {
        path: (torch.zeros(_TYPICAL_RANK, layer.in_features), torch.zeros(layer.out_features, _TYPICAL_RANK))
        for path, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and path.endswith(_ATTENTION)
    }


def _zero_conditions(
    key: BatchKey, rows: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor] | None:
    zeros = {name: torch.zeros(rows, *shape, dtype=dtype, device=device) for name, shape in key.added_shapes}
    return zeros or None


def _zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device).to(memory_format=torch.channels_last)


def _least_ms(call: Callable[[], Tensor], repeats: int) -> float:
    taken_s = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            call().flatten()[0].item()  # waits for the device
            taken_s.append(time.perf_counter() - began)
            if taken_s[-1] * 1_000 > _SLOW_MS:
                return taken_s[-1] * 1_000
    return min(taken_s[1:], default=taken_s[0]) * 1_000
