"""The engine at full size: what is left of a UNet's speed once requests, samplers and events are around it.

Knows engines; :mod:`benchmarks.gpu` knows the UNets and prints.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.types import SamplerName
from deployments.engine.acceleration import PLAIN, Acceleration
from deployments.engine.added import added_shapes
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.lean_unet import make_lean
from deployments.engine.lora import LoraFactors
from deployments.engine.recordings import CudaGraphs, Record
from deployments.engine.request import AdapterInput, DenoiseEvent, DenoiseRequest, Done, noise_for
from deployments.engine.samplers import NoiseSchedule

# The ways from the plainest to what a replica does.
WAYS = ("waiting", "ahead", "graphs", "compiled graphs")
_ALWAYS = math.inf
_TOKENS, _WARM_STEPS, _RANK = 77, 5, 16
_ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")


def acceleration(way: str, record: Record) -> Acceleration:
    """What one of :data:`WAYS` stands for."""
    return {
        "waiting": PLAIN,
        "ahead": Acceleration(ahead_below_ms=_ALWAYS),
        "graphs": Acceleration(record, ahead_below_ms=_ALWAYS),
        "compiled graphs": Acceleration(record, "default", ahead_below_ms=_ALWAYS),
    }[way]


def engine_of(
    unet: Any, device: torch.device, dtype: torch.dtype, max_rows: int, way: str, record: Record | None
) -> Engine:
    """A warm engine over the weights of ``unet``; CUDA graphs unless another ``record`` is given."""
    own = copy.copy(unet)
    make_lean(own)
    engine = Engine(
        own,
        NoiseSchedule(steps_offset=1),
        dtype=dtype,
        device=device,
        max_rows=max_rows,
        max_queued_requests=max_rows,
        cost=CostModel(),
        adapter_slots=max(max_rows // 2, 4),
        acceleration=acceleration(way, record or CudaGraphs()),
    )
    engine.warm_up()
    return engine


def request_of(config: Any, number: int, num_steps: int, *, adapted: bool) -> DenoiseRequest:
    """A guided request with noise and embeddings of its own."""
    size, width = config.sample_size, config.cross_attention_dim
    added = {name: noise_for(number, shape) for name, shape in added_shapes(config)}
    return DenoiseRequest(
        request_id=f"r{number}",
        prompt_embeds=noise_for(1_000 + number, (_TOKENS, width)),
        negative_embeds=noise_for(2_000 + number, (_TOKENS, width)),
        noise=noise_for(number, (config.in_channels, size, size)),
        added_conditions=added,
        negative_added_conditions=added,
        adapters=(AdapterInput(f"a{number}", 1.0),) if adapted else (),
        sampler=SamplerName.DPMPP_2M,
        num_inference_steps=num_steps,
        guidance_scale=7.5,
        seed=number,
        progress=False,
    )


def factors_of(unet: Any) -> LoraFactors:
    """An adapter of rank 16 for the attention layers."""
    return {
        path: (
            torch.randn(_RANK, layer.in_features) / layer.in_features**0.5,
            0.01 * torch.randn(layer.out_features, _RANK),
        )
        for path, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and path.endswith(_ATTENTION)
    }


def step_ms(
    engine: Engine, unet: Any, num_requests: int, num_steps: int, *, adapters: LoraFactors | None
) -> float:
    """Mean milliseconds of a step with ``num_requests`` guided requests, each with an adapter of its own."""
    for number in range(num_requests):
        wanted = request_of(unet.config, number, _WARM_STEPS + num_steps, adapted=adapters is not None)
        engine.submit(wanted, lambda event: None, {f"a{number}": adapters} if adapters is not None else {})
    for _ in range(_WARM_STEPS):
        engine.step()
    began = time.perf_counter()
    while engine.step():
        pass
    return 1_000 * (time.perf_counter() - began) / num_steps


def lines(
    unet: Any,
    device: torch.device,
    dtype: torch.dtype,
    ways: Sequence[str],
    all_requests: Sequence[int],
    num_steps: int,
    record: Record | None = None,
) -> Iterator[dict[str, Any]]:
    """A line for each way and number of requests. Before the timed run one that records what is asked for.

    ``psnr_db`` is how close pictures come to those of the first way, all requests with adapters of their own:
    rounding is all that may differ, so 40 dB in half precision and 60 in float32 are to be expected.
    """
    expected: list[Tensor] = []
    for way in ways:
        engine = engine_of(unet, device, dtype, 2 * max(all_requests), way, record)
        drawn = _drawn(engine, unet, max(all_requests), num_steps)
        expected = expected or drawn
        closest_db = min(_psnr_db(own, other) for own, other in zip(drawn, expected, strict=True))
        for num_requests in all_requests:
            plain_ms = _settled_ms(engine, unet, num_requests, num_steps, None)
            adapted_ms = _settled_ms(engine, unet, num_requests, num_steps, factors_of(unet))
            yield {
                "way": way,
                "requests": num_requests,
                "step_ms": round(plain_ms, 3),
                "steps_per_s": round(1_000 / plain_ms, 1),
                "rows_per_s": round(2_000 * num_requests / plain_ms, 1),
                "adapters_cost": round(adapted_ms / plain_ms - 1, 3),
                "psnr_db": round(closest_db, 1) if math.isfinite(closest_db) else None,
            }


def _drawn(engine: Engine, unet: Any, num_requests: int, num_steps: int) -> list[Tensor]:
    """Latents of requests with an adapter each. Raises AssertionError if one of them fails."""
    ends: dict[str, DenoiseEvent] = {}
    for number in range(num_requests):
        torch.manual_seed(number)
        wanted = request_of(unet.config, number, num_steps, adapted=True)
        engine.submit(
            wanted,
            lambda event, request_id=wanted.request_id: ends.update({request_id: event}),  # type: ignore[misc]
            {f"a{number}": factors_of(unet)},
        )
    while engine.step():
        pass
    latents = []
    for number in range(num_requests):
        end = ends[f"r{number}"]
        assert isinstance(end, Done), end
        latents.append(end.latents)
        engine.forget_adapter(f"a{number}")
    return latents


def _psnr_db(got: Tensor, expected: Tensor) -> float:
    error = (got.double() - expected.double()).square().mean().item()
    peak = (expected.max() - expected.min()).item()
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def _settled_ms(
    engine: Engine, unet: Any, num_requests: int, num_steps: int, adapters: LoraFactors | None
) -> float:
    step_ms(engine, unet, num_requests, num_steps, adapters=adapters)
    return step_ms(engine, unet, num_requests, num_steps, adapters=adapters)
