"""What steps cost on this device, measured at warm-up. Knows calls of a network; no requests."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from deployments.engine.branch import Branch
from deployments.engine.cost import CostModel
from deployments.engine.lora import LoraFactors
from deployments.engine.network import SLOW_MS, Network, least_ms, zero_conditions, zeros
from deployments.engine.probe import Probe, probe
from deployments.engine.request import FEW_STEP
from deployments.engine.work import BatchKey

# Rows of a guided request.
_GUIDED = 2
_TYPICAL, _TYPICAL_RANK = "typical", 16
_ADAPTED_ROWS = 8
_ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")


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
    sample = zeros(rows, latent_channels, key.height, key.width, dtype=dtype, device=device)
    conditioning = zeros(
        rows,
        branch.conditioning_channels,
        key.height * factor,
        key.width * factor,
        dtype=dtype,
        device=device,
    )
    context = torch.zeros(rows, key.num_tokens, branch.context_dim, dtype=dtype, device=device)
    added = zero_conditions(key, rows, dtype, device)
    timestep = torch.ones(rows, device=device)
    return least_ms(lambda: branch(sample, timestep, context, conditioning, added).mid, repeats)


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
    channels = network.unet.config.out_channels
    step_ms = 0.0
    for rows in _row_counts(network, max_rows):
        sample, timestep, layout = probe(key, channels, rows, dtype, device)
        network.prepare(sample, layout)
        step_ms = least_ms(partial(network, sample, timestep, layout), 3)
        cost.calibrate(key, rows, step_ms)
        if step_ms > SLOW_MS:
            break
    for name, branch in network.branches.items():
        ms = measure_branch_ms(branch, key, channels, _GUIDED, dtype, device)
        cost.calibrate_branch(name, ms / cost.step_ms(key, _GUIDED))
    slots = network.slots
    if slots is None or step_ms > SLOW_MS:
        return
    num_rows = min(max_rows, _ADAPTED_ROWS)
    plain = probe(key, channels, num_rows, dtype, device)
    if slots.num_slots:
        adapter = _TYPICAL, _typical_factors(network.unet)
        for rows in network.graphs.buckets[::-1] if network.graphs is not None else ():
            sample, _, layout = probe(key, channels, rows, dtype, device, adapter=adapter)
            network.prepare(sample, layout)
        adapted = probe(key, channels, num_rows, dtype, device, adapter=adapter)
        cost.calibrate_adapters(_share(network, plain, adapted))
        slots.forget(_TYPICAL)
    if FEW_STEP in slots.kept:
        few_step = probe(key, channels, num_rows, dtype, device, few_step=True)
        cost.calibrate_few_step(_share(network, plain, few_step))


def _row_counts(network: Network, max_rows: int) -> list[int]:
    """Where the cost of a step is measured. Recordings take less memory when the largest is made first."""
    if network.graphs is not None:
        return network.graphs.buckets[::-1]
    return sorted({1, max_rows, *(2**i for i in range(1, max_rows.bit_length()))})


def _share(network: Network, plain: Probe, adapted: Probe) -> float:
    """What the adapters of a call add to it, as a share of what it takes without."""
    plain_ms = adapted_ms = math.inf
    # In turns, so that other load on the machine hits both alike.
    for _ in range(2):
        plain_ms = min(plain_ms, least_ms(partial(network, *plain), 1))
        adapted_ms = min(adapted_ms, least_ms(partial(network, *adapted), 1))
    return max(adapted_ms / plain_ms - 1, 0.0)


def _typical_factors(unet: Any) -> LoraFactors:
    """An adapter as most are: for the attention layers. Its factors are zeros."""
    return {
        path: (torch.zeros(_TYPICAL_RANK, layer.in_features), torch.zeros(layer.out_features, _TYPICAL_RANK))
        for path, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and path.endswith(_ATTENTION)
    }
