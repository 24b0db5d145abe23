"""What goes into the denoise engine and what comes out of it: requests, snapshots, events.

Knows shapes and limits; does not know scheduling, samplers' mathematics or the UNet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import InvalidRequest, LimnerError
from core.types import Priority, SamplerName
from deployments.engine.scheduler import BatchKey


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """Where a request stood when it was handed back. CPU float32 ``[channels, h, w]`` each.

    ``step`` is the next step to take; ``x_prev`` and ``m_prev`` are the latents and the guided model
    output of the step before, ``generator_state`` that of the step noise of a stochastic sampler.
    """

    latents: Tensor
    x_prev: Tensor
    m_prev: Tensor
    step: int
    generator_state: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoiseRequest:
    """One picture inside the engine. Tensors are CPU float32; the whole is picklable.

    ``prompt_embeds`` and ``negative_embeds`` are ``[tokens, dim]``; the negative ones are needed when
    ``guidance_scale`` is over 1. ``noise`` ``[channels, h, w]`` is standard normal (:func:`noise_for`).
    With ``source`` latents the trajectory starts from the noised source at ``start_step``; with a
    ``mask`` ``[1, h, w]`` as well, only where it is 1 is denoised. ``guidance_interval`` is the part of
    the trajectory, in fractions, that uses guidance. ``deadline_s`` counts from submission.
    ``added_conditions`` are per-picture tensors handed to the UNet as ``added_cond_kwargs``;
    ``negative_added_conditions`` replaces them in the unconditional row.
    """

    request_id: str
    prompt_embeds: Tensor
    negative_embeds: Tensor | None = None
    noise: Tensor
    source: Tensor | None = None
    mask: Tensor | None = None
    added_conditions: Mapping[str, Tensor] = field(default_factory=dict)
    negative_added_conditions: Mapping[str, Tensor] = field(default_factory=dict)
    sampler: SamplerName
    num_inference_steps: int
    start_step: int = 0
    guidance_scale: float
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    seed: int
    user_id: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    preview_every: int = 0
    snapshot: Snapshot | None = None

    @property
    def key(self) -> BatchKey:
        channels, height, width = self.noise.shape
        tokens, dim = self.prompt_embeds.shape
        added = tuple(sorted((name, tuple(value.shape)) for name, value in self.added_conditions.items()))
        return BatchKey(channels, height, width, tokens, dim, added)

    @property
    def first_step(self) -> int:
        """The step this engine takes first: that of the snapshot where there is one."""
        return self.start_step if self.snapshot is None else self.snapshot.step

    def guided(self, step: int) -> bool:
        """Whether ``step`` needs the unconditional row."""
        start, stop = self.guidance_interval
        return self.guidance_scale > 1 and start <= step / self.num_inference_steps < stop

    def num_rows(self, step: int) -> int:
        return 2 if self.guided(step) else 1


@dataclass(frozen=True, slots=True)
class Accepted:
    """The engine took the request. ``predicted_finish_s`` counts from now."""

    request_id: str
    predicted_finish_s: float


@dataclass(frozen=True, slots=True)
class Progressed:
    """``step`` of ``num_steps`` are done. ``predicted_finish_s`` counts from now."""

    request_id: str
    step: int
    num_steps: int
    predicted_finish_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Previewed:
    """How the picture is likely to turn out, ``[h, w, 3]`` at latent resolution."""

    request_id: str
    step: int
    rgb: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """The denoised ``latents``, CPU float32 ``[channels, h, w]``. Times are this engine's alone."""

    request_id: str
    latents: Tensor
    num_steps: int
    queued_s: float
    denoise_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without a picture."""

    request_id: str
    error: LimnerError


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The request ended because :meth:`Engine.cancel` was called."""

    request_id: str


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The engine is going away. ``snapshot`` resumes the request elsewhere; None if it never started."""

    request_id: str
    snapshot: Snapshot | None


TerminalEvent = Done | Failed | Cancelled | HandedBack
DenoiseEvent = Accepted | Progressed | Previewed | TerminalEvent


def noise_for(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The standard normal noise that a diffusers pipeline draws with a CPU generator of this seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def check(request: DenoiseRequest, *, channels: int, context_dim: int) -> None:
    """Raise :class:`InvalidRequest`, naming the field, unless a UNet of these sizes can denoise it."""
    _check_numbers(request)
    _check_tensors(request, channels, context_dim)
    if request.start_step and request.source is None and request.snapshot is None:
        raise InvalidRequest("a start step needs source latents", field="source")
    if request.mask is not None and request.source is None:
        raise InvalidRequest("a mask needs source latents", field="source")
    if request.snapshot is not None and not 0 <= request.snapshot.step < request.num_inference_steps:
        raise InvalidRequest("the snapshot is not of this trajectory", field="snapshot")


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
    start, stop = request.guidance_interval
    if not 0 <= start <= stop <= 1:
        raise InvalidRequest(
            "the guidance interval must rise within 0 to 1", field="guidance_interval", limit=[0, 1]
        )
    if not 0 <= request.seed < 2**64:
        raise InvalidRequest("the seed must fit 64 bits", field="seed", limit=2**64 - 1)
    if request.deadline_s is not None and not request.deadline_s > 0:
        raise InvalidRequest("the deadline must lie in the future", field="deadline_s")
    if request.preview_every < 0:
        raise InvalidRequest("the preview interval cannot be negative", field="preview_every", limit=0)


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
        "mask": (request.mask, torch.Size((1, *latents[1:]))),
        "prompt_embeds": (request.prompt_embeds, context),
        "negative_embeds": (request.negative_embeds, context),
    }
    if request.snapshot is not None:
        for name in ("latents", "x_prev", "m_prev"):
            expected[f"snapshot.{name}"] = (getattr(request.snapshot, name), latents)
    for name, value in request.negative_added_conditions.items():
        if name not in request.added_conditions:
            raise InvalidRequest(f"{name} has no positive counterpart", field="negative_added_conditions")
        expected[f"negative_added_conditions.{name}"] = (value, request.added_conditions[name].shape)
    for name, (tensor, shape) in expected.items():
        _check_tensor(name, tensor, shape)


def _check_tensor(name: str, tensor: Tensor | None, shape: torch.Size) -> None:
    if tensor is None:
        return
    if tensor.shape != shape:
        raise InvalidRequest(f"{name} must be {list(shape)}", field=name, limit=list(shape))
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise InvalidRequest(f"{name} must be finite floating-point numbers", field=name)
