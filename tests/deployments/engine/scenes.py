"""Requests and engines in few words, shared by the engine's tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from core.types import SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.lean_unet import make_lean
from deployments.engine.request import DenoiseEvent, DenoiseRequest, Done, TerminalEvent, noise_for
from deployments.engine.samplers import NoiseSchedule
from tests.fakes import TinyUNet

SHAPE = (4, 8, 8)
CONTEXT_DIM = 8
SCHEDULE = NoiseSchedule(steps_offset=1)


def request(request_id: str = "r", *, seed: int = 0, **changes: Any) -> DenoiseRequest:
    """A guided request of four DDIM steps, its embeddings drawn from ``seed``."""
    values: dict[str, Any] = {
        "prompt_embeds": noise_for(seed + 1_000, (5, CONTEXT_DIM)),
        "negative_embeds": noise_for(seed + 2_000, (5, CONTEXT_DIM)),
        "noise": noise_for(seed, SHAPE),
        "sampler": SamplerName.DDIM,
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "seed": seed,
    }
    return DenoiseRequest(request_id=request_id, **{**values, **changes})


def engine(unet: Any = None, **changes: Any) -> Engine:
    values: dict[str, Any] = {
        "dtype": torch.float32,
        "device": "cpu",
        "max_rows": 8,
        "max_queued_requests": 64,
        "cost": CostModel(),
    }
    kind: type[Engine] = changes.pop("kind", Engine)
    schedule = changes.pop("schedule", SCHEDULE)
    if isinstance(unet, UNet2DConditionModel):
        # As in service. A copy, since the reference may be the same UNet.
        unet = copy.copy(unet)
        assert make_lean(unet)
    return kind(TinyUNet(CONTEXT_DIM) if unet is None else unet, schedule, **{**values, **changes})


def small_unet(seed: int = 0, in_channels: int = 4) -> UNet2DConditionModel:
    """A real UNet of two levels with random weights, some milliseconds a call."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=in_channels,
            layers_per_block=1,
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=CONTEXT_DIM,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    return unet.eval().requires_grad_(False)


@dataclass
class Listener:
    """Keeps the events of one request."""

    events: list[DenoiseEvent] = field(default_factory=list)

    def __call__(self, event: DenoiseEvent) -> None:
        self.events.append(event)

    @property
    def ends(self) -> list[DenoiseEvent]:
        return [event for event in self.events if isinstance(event, TerminalEvent)]

    @property
    def latents(self) -> Tensor:
        end = self.ends[0]
        assert isinstance(end, Done), end
        return end.latents


def submitted(on: Engine, *wanted: DenoiseRequest) -> dict[str, Listener]:
    listeners = {each.request_id: Listener() for each in wanted}
    for each in wanted:
        on.submit(each, listeners[each.request_id])
    return listeners


def run(on: Engine, until: Callable[[], bool] = lambda: False) -> None:
    """Step until idle, or until told."""
    while not until() and on.step():
        pass


def alone(wanted: DenoiseRequest, unet: Any = None, **changes: Any) -> Tensor:
    """The latents of a request that has an engine to itself."""
    listener, own = Listener(), engine(unet, **changes)
    own.submit(wanted, listener)
    run(own)
    return listener.latents


def psnr_db(got: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio of latents, the peak being the range of ``expected``."""
    error = (got.double() - expected.double()).square().mean().item()
    peak = (expected.max() - expected.min()).item()
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf
