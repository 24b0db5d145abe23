"""Calls of a shape with nothing in them, to measure and to record. Knows layouts; no requests but its own."""

from __future__ import annotations

import torch
from torch import Tensor

from core.types import SamplerName
from deployments.engine.conditioning import Layout, MemberRows
from deployments.engine.lora import LoraFactors
from deployments.engine.request import AdapterInput, DenoiseRequest
from deployments.engine.work import BatchKey

# Sample, timestep and layout of a call.
Probe = tuple[Tensor, Tensor, Layout]


def probe(
    key: BatchKey,
    latent_channels: int,
    num_rows: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    few_step: bool = False,
    adapter: tuple[str, LoraFactors] | None = None,
) -> Probe:
    """A UNet call with ``num_rows`` rows of zeros.

    All of them use ``adapter``, an id and its factors, or the model's own few-step one.
    """
    num_extra = key.channels - latent_channels
    request = DenoiseRequest(
        request_id="probe",
        prompt_embeds=torch.zeros(key.num_tokens, key.context_dim),
        noise=torch.zeros(latent_channels, key.height, key.width),
        extra_channels=torch.zeros(num_extra, key.height, key.width) if num_extra else None,
        added_conditions={name: torch.zeros(shape) for name, shape in key.added_shapes},
        adapters=() if adapter is None else (AdapterInput(adapter[0], 1.0),),
        few_step=few_step,
        sampler=SamplerName.DDIM,
        num_inference_steps=1,
        guidance_scale=1.0,
        seed=0,
    )
    rows = [MemberRows(0, guided=False, branch=None)] * num_rows
    factors = {} if adapter is None else dict([adapter])
    layout = Layout([request], rows, dtype, device, factors)
    sample = torch.zeros(num_rows, latent_channels, key.height, key.width, dtype=dtype, device=device)
    return (
        sample.to(memory_format=torch.channels_last),
        torch.ones(num_rows, device=device),
        layout,
    )
