"""Whether a request can be denoised at all, before it is queued. Knows shapes and limits, not policy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.added import AddedShapes, added_shapes
from deployments.engine.branch import Branch, BranchInput
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.engine.request import FEW_STEP, DenoiseRequest

# Adapters that one request may stack, and how strong each may be.
MAX_ADAPTERS = 4
MAX_WEIGHT = 4.0
_NONE: Mapping[str, Branch] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a UNet's inputs: latents of ``channels``, ``extra_channels`` beside them, text, and the
    conditions ``added`` to it."""

    channels: int
    context_dim: int
    extra_channels: int = 0
    added: AddedShapes = ()

    @classmethod
    def of(cls, config: Any) -> Self:
        """From a diffusers configuration: what goes in beyond what comes out is extra."""
        channels = config.out_channels
        return cls(channels, config.cross_attention_dim, config.in_channels - channels, added_shapes(config))


def check(request: DenoiseRequest, model: ModelShape, branches: Mapping[str, Branch] = _NONE) -> None:
    """Raise :class:`InvalidRequest`, naming the field, unless the model can denoise the request."""
    _check_numbers(request)
    _check_start(request)
    _check_tensors(request, model.channels, model.context_dim)
    _check_extra_channels(request, model.extra_channels)
    _check_added(request, model.added)
    if request.branch is not None:
        _check_branch(request, request.branch, branches)


def check_adapters(
    request: DenoiseRequest, factors: Mapping[str, LoraFactors], slots: LoraSlots | None
) -> None:
    """Raise :class:`InvalidRequest`, naming the adapter, unless all of the request's fit the model.

    ``factors`` are theirs by id, ``slots`` those of the engine.
    """
    if request.few_step and (slots is None or FEW_STEP not in slots.kept):
        raise InvalidRequest("this model has no few-step adapter", field="few_step", limit=False)
    limit = 0 if slots is None else min(MAX_ADAPTERS, slots.num_slots)
    if not limit and request.adapters:
        raise InvalidRequest("this model takes no adapters", field="adapters", limit=limit)
    if len(request.adapters) > limit:
        raise InvalidRequest(f"at most {limit} adapters act together", field="adapters", limit=limit)
    for index, use in enumerate(request.adapters):
        field = f"adapters[{index}]"
        if not -MAX_WEIGHT <= use.weight <= MAX_WEIGHT:
            raise InvalidRequest(
                f"the weight must lie within ±{MAX_WEIGHT:g}",
                field=f"{field}.weight",
                limit=[-MAX_WEIGHT, MAX_WEIGHT],
            )
        if use.adapter_id not in factors:
            raise InvalidRequest("the adapter came without its factors", field=f"{field}.adapter_id")
        assert slots is not None
        try:
            slots.check(factors[use.adapter_id])
        except InvalidRequest as error:
            raise InvalidRequest(error.message, field=field, limit=error.limit) from None


def _check_numbers(request: DenoiseRequest) -> None:
    if request.num_inference_steps < 1:
        raise InvalidRequest("at least one step is needed", field="num_inference_steps", limit=1)
    if not 0 <= request.start_step < request.num_inference_steps:
        raise InvalidRequest(
            "the start step lies outside the trajectory",
            field="start_step",
            limit=request.num_inference_steps - 1,
        )
    if not math.isfinite(request.guidance_scale):
        raise InvalidRequest("the guidance scale must be finite", field="guidance_scale")
    _check_interval("guidance_interval", request.guidance_interval)
    if not 0 <= request.seed < 2**64:
        raise InvalidRequest("the seed must fit 64 bits", field="seed", limit=2**64 - 1)
    if request.deadline_s is not None and not request.deadline_s > 0:
        raise InvalidRequest("the deadline must lie in the future", field="deadline_s")
    if request.preview_every < 0:
        raise InvalidRequest("the preview interval cannot be negative", field="preview_every", limit=0)


def _check_interval(name: str, interval: tuple[float, float]) -> None:
    start, stop = interval
    if not 0 <= start <= stop <= 1:
        raise InvalidRequest(f"the {name} must rise within 0 to 1", field=name, limit=[0, 1])


def _check_start(request: DenoiseRequest) -> None:
    """What the trajectory starts from, and that nothing else is given beside it."""
    if request.invert:
        if request.sampler is not SamplerName.DDIM:
            raise InvalidRequest("only DDIM can be inverted", field="sampler", limit=[SamplerName.DDIM])
        if request.source is None:
            raise InvalidRequest("an inversion needs source latents", field="source")
        for name in ("mask", "start_latents"):
            if getattr(request, name) is not None:
                raise InvalidRequest(f"an inversion takes no {name}", field=name)
    has_start = request.start_latents is not None
    if request.start_step and request.source is None and not has_start and request.snapshot is None:
        raise InvalidRequest("a start step needs source latents", field="source")
    if request.mask is not None and request.source is None:
        raise InvalidRequest("a mask needs source latents", field="source")
    if has_start and request.source is not None and request.mask is None:
        raise InvalidRequest("source latents beside start latents need a mask", field="start_latents")
    if request.snapshot is not None and not 0 <= request.snapshot.step < request.num_inference_steps:
        raise InvalidRequest("the snapshot is not of this trajectory", field="snapshot")


def _check_tensors(request: DenoiseRequest, channels: int, context_dim: int) -> None:
    if request.noise.ndim != 3 or request.noise.shape[0] != channels or not request.noise.numel():
        raise InvalidRequest(f"noise must be [{channels}, h, w]", field="noise", limit=channels)
    context = request.prompt_embeds.shape
    if len(context) != 2 or context[0] < 1 or context[1] != context_dim:
        raise InvalidRequest(
            f"prompt embeddings must be [tokens, {context_dim}]", field="prompt_embeds", limit=context_dim
        )
    if request.negative_embeds is None and request.guidance_scale > 1:
        raise InvalidRequest("guidance needs negative embeddings", field="negative_embeds")
    latents = request.noise.shape
    expected: dict[str, tuple[Tensor | None, torch.Size]] = {
        "noise": (request.noise, latents),
        "source": (request.source, latents),
        "start_latents": (request.start_latents, latents),
        "mask": (request.mask, torch.Size((1, *latents[1:]))),
        "prompt_embeds": (request.prompt_embeds, context),
        "negative_embeds": (request.negative_embeds, context),
    }
    if request.snapshot is not None:
        for name in ("latents", "x_prev", "m_prev"):
            expected[f"snapshot.{name}"] = (getattr(request.snapshot, name), latents)
    for name, (tensor, shape) in expected.items():
        _check_tensor(name, tensor, shape)


def _check_added(request: DenoiseRequest, shapes: AddedShapes) -> None:
    """A UNet that misses a condition, or gets one of another shape, would fail all rows of a step."""
    expected = dict(shapes)
    if set(request.added_conditions) != set(expected):
        names = ", ".join(expected) or "no added conditions"
        raise InvalidRequest(f"this model takes {names}", field="added_conditions", limit=sorted(expected))
    for field in ("added_conditions", "negative_added_conditions"):
        for name, value in getattr(request, field).items():
            if name not in expected:
                raise InvalidRequest(f"{name} has no positive counterpart", field=field)
            _check_tensor(f"{field}.{name}", value, torch.Size(expected[name]))


def _check_extra_channels(request: DenoiseRequest, extra_channels: int) -> None:
    shape = torch.Size((extra_channels, *request.noise.shape[1:]))
    if request.extra_channels is None and extra_channels:
        raise InvalidRequest(
            f"this model needs extra channels {list(shape)}", field="extra_channels", limit=list(shape)
        )
    if request.extra_channels is not None and not extra_channels:
        raise InvalidRequest("this model takes no extra channels", field="extra_channels", limit=0)
    _check_tensor("extra_channels", request.extra_channels, shape)


def _check_branch(request: DenoiseRequest, asked: BranchInput, branches: Mapping[str, Branch]) -> None:
    if asked.name not in branches:
        raise InvalidRequest(
            f"this model has no branch {asked.name}", field="branch.name", limit=sorted(branches)
        )
    if not math.isfinite(asked.scale):
        raise InvalidRequest("the branch's scale must be finite", field="branch.scale")
    _check_interval("branch.interval", asked.interval)
    branch = branches[asked.name]
    _, height, width = request.noise.shape
    factor = branch.conditioning_factor
    shape = torch.Size((branch.conditioning_channels, height * factor, width * factor))
    _check_tensor("branch.conditioning", asked.conditioning, shape)
    prompt = request.prompt_embeds if asked.prompt_embeds is None else asked.prompt_embeds
    if prompt.ndim != 2 or len(prompt) < 1 or prompt.shape[1] != branch.context_dim:
        raise InvalidRequest(
            f"the branch's prompt embeddings must be [tokens, {branch.context_dim}]",
            field="branch.prompt_embeds",
            limit=branch.context_dim,
        )
    _check_tensor("branch.prompt_embeds", prompt, prompt.shape)
    if request.guidance_scale > 1:
        negative = request.negative_embeds if asked.negative_embeds is None else asked.negative_embeds
        _check_tensor("branch.negative_embeds", negative, prompt.shape)


def _check_tensor(name: str, tensor: Tensor | None, shape: torch.Size) -> None:
    if tensor is None:
        return
    if tensor.shape != shape:
        raise InvalidRequest(f"{name} must be {list(shape)}", field=name, limit=list(shape))
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise InvalidRequest(f"{name} must be finite floating-point numbers", field=name)
