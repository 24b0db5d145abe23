"""The UNet with the branches beside it, called as one network, and how long a call takes.

Knows modules and tensors; does not know requests, samplers or the order of service.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from deployments.engine.acceleration import PLAIN, Acceleration
from deployments.engine.added import added_shapes
from deployments.engine.branch import Branch, BranchSum
from deployments.engine.conditioning import Layout, residuals_of
from deployments.engine.graphed_branch import GraphedBranch
from deployments.engine.graphs import GraphedCalls
from deployments.engine.lean_unet import is_lean
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.engine.lora_rows import LoraRows
from deployments.engine.ports import ResidualPorts
from deployments.engine.request import FEW_STEP
from deployments.engine.work import BatchKey

# From here on a call is measured once: a start would take an hour.
SLOW_MS = 3_000.0


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
    factors of the model's own adapter. Raises InvalidRequest if that does not fit. Where ``acceleration``
    records, calls have up to ``max_rows`` rows.
    """

    def __init__(
        self,
        unet: UNet,
        branches: Mapping[str, Branch] | None = None,
        num_slots: int = 0,
        few_step: LoraFactors | None = None,
        max_rows: int = 0,
        acceleration: Acceleration = PLAIN,
    ) -> None:
        self.unet = unet
        self.slots = None
        if num_slots or few_step is not None:
            steady_rows = max_rows if acceleration.record is not None else 0
            self.slots = LoraSlots(cast("nn.Module", unet), num_slots, steady_rows=steady_rows)
        if self.slots is not None and few_step is not None:
            self.slots.keep(FEW_STEP, few_step)
        # The rows of the layout that was called last alone keep adapters in their slots.
        self._adapted: weakref.ref[Layout] | None = None
        self._rows: LoraRows | None = None
        self.branches = dict(branches or {})
        streams = any(branch.style == "stream" for branch in self.branches.values())
        self._ports = ResidualPorts(unet) if streams and not is_lean(unet) else None
        self.graphs: GraphedCalls | None = None
        self._called: Mapping[str, Branch] = self.branches
        record = acceleration.record
        if record is not None:
            fast = acceleration.compiled(self._call) if is_lean(unet) else None
            self.graphs = GraphedCalls(self._call, record, max_rows, self.slots, fast)
            self._called = {
                name: GraphedBranch(branch, record, max_rows) for name, branch in self.branches.items()
            }

    def __call__(self, sample: Tensor, timestep: Tensor, layout: Layout) -> Tensor:
        """The model's output ``[rows, channels, h, w]`` for scaled latents of that shape.

        Raises what the model, the device or an adapter that does not fit raises.
        """
        adapters = self._adapters_of(layout)
        residuals = residuals_of(layout.calls, self._called, sample, timestep)
        if self.graphs is not None:
            return self.graphs(sample, timestep, layout, adapters, residuals)
        widened = sample if layout.extra is None else torch.cat([sample, layout.extra], 1)
        with nullcontext() if self.slots is None else self.slots.acting(adapters):
            return self._call(widened, timestep, layout.context, layout.added, residuals)

    def prepare(self, sample: Tensor, layout: Layout) -> None:
        """Make calls of this shape as fast as they get, however long that takes."""
        if self.graphs is not None:
            self.graphs.prepare(sample, layout, self._adapters_of(layout))

    def _adapters_of(self, layout: Layout) -> LoraRows | None:
        """The layout's adapters, in slots; None where no row has any."""
        if self.slots is None or not any(layout.adapters):
            return None
        if self._adapted is None or self._adapted() is not layout:
            self._adapted = self._rows = None
            num_rows = len(layout.adapters)
            if self.graphs is not None:
                num_rows = self.graphs.num_rows(num_rows)
            padded = [*layout.adapters, *([[]] * (num_rows - len(layout.adapters)))]
            self._rows = self.slots.rows(padded, layout.factors)
            self._adapted = weakref.ref(layout)
        return self._rows or None

    def _call(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        added: dict[str, Tensor] | None,
        residuals: BranchSum,
    ) -> Tensor:
        given: dict[str, Any] = {}
        if residuals.skip is not None:
            given["down_block_additional_residuals"] = residuals.skip.down
            given["mid_block_additional_residual"] = residuals.skip.mid
        if residuals.stream is not None and self._ports is None:
            given["stream"] = residuals.stream
        with nullcontext() if self._ports is None else self._ports.adding(residuals.stream):
            outputs = self.unet(
                sample, timestep, context, added_cond_kwargs=added, return_dict=False, **given
            )
        return outputs[0]


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
    sample = zeros(rows, key.channels, key.height, key.width, dtype=dtype, device=device)
    context = torch.zeros(rows, key.num_tokens, key.context_dim, dtype=dtype, device=device)
    added = zero_conditions(key, rows, dtype, device)
    timestep = torch.ones(rows, device=device)
    return least_ms(
        lambda: unet(sample, timestep, context, added_cond_kwargs=added, return_dict=False)[0],
        repeats,
    )


def zero_conditions(
    key: BatchKey, rows: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor] | None:
    zeros = {name: torch.zeros(rows, *shape, dtype=dtype, device=device) for name, shape in key.added_shapes}
    return zeros or None


def zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device).to(memory_format=torch.channels_last)


def least_ms(call: Callable[[], Tensor], repeats: int) -> float:
    taken_s = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            call().flatten()[0].item()  # waits for the device
            taken_s.append(time.perf_counter() - began)
            if taken_s[-1] * 1_000 > SLOW_MS:
                return taken_s[-1] * 1_000
    return min(taken_s[1:], default=taken_s[0]) * 1_000
