"""What goes into the denoise engine and what comes out of it: requests, snapshots, events.

Knows what a request asks for at each step; does not know scheduling, samplers' mathematics or the UNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import LimnerError
from core.types import Priority, SamplerName
from deployments.engine.branch import BranchInput
from deployments.engine.portable import PicklesArrays
from deployments.engine.work import BatchKey


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot(PicklesArrays):
    """Where a request stood when it was handed back. CPU float32 ``[channels, h, w]`` each.

    ``step`` is the next step to take; ``x_prev`` and ``m_prev`` are the latents and the guided model
    output of the step before, ``generator_state`` that of the step noise of a stochastic sampler.
    """

    latents: Tensor
    x_prev: Tensor
    m_prev: Tensor
    step: int
    generator_state: Tensor | None = None


# What the network calls the model's own few-step adapter; ids of members' adapters have a prefix.
FEW_STEP = "few-step"


@dataclass(frozen=True, slots=True)
class AdapterInput:
    """One adapter of a request: 1 for ``weight`` is as it was trained. ``sha256`` is that of its file."""

    adapter_id: str
    weight: float
    sha256: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoiseRequest(PicklesArrays):
    """One picture inside the engine. Tensors are CPU float32; the whole is picklable.

    ``prompt_embeds`` and ``negative_embeds`` are ``[tokens, dim]``; the negative ones are needed when
    ``guidance_scale`` is over 1. ``noise`` ``[channels, h, w]`` is standard normal (:func:`noise_for`).
    With ``source`` latents the trajectory starts from the noised source at ``start_step``; with a
    ``mask`` ``[1, h, w]`` as well, only where it is 1 is denoised. ``guidance_interval`` is the part of
    the trajectory, in fractions, that uses guidance. ``deadline_s`` counts from submission.
    ``added_conditions`` are per-picture tensors handed to the UNet as ``added_cond_kwargs``;
    ``negative_added_conditions`` replaces them in the unconditional row. ``extra_channels`` ``[k, h, w]``
    follow the scaled latents in every UNet call: for an inpainting UNet of nine channels the mask and the
    latents of the masked picture. ``branch`` asks for a network beside the UNet. The effects of
    ``adapters`` add up, in both rows of a guided step; their factors come beside the request. With
    ``few_step`` the model's own few-step adapter, which the engine has, acts as well.

    With ``invert`` the request walks the other way, by DDIM inversion (Song et al. 2021): from ``source``
    up to the noise level of ``start_step``, in as many steps as an ordinary request takes from there.
    Its latents are the ``start_latents`` of that ordinary request, which takes them as they are in place
    of noised ``source`` latents.

    Without ``progress`` there are no ``Progressed`` events: nobody follows.

    A request that ``moved`` was accepted by another engine, which handed it back or died: it is not refused
    for want of room or time.
    """

    request_id: str
    prompt_embeds: Tensor
    negative_embeds: Tensor | None = None
    noise: Tensor
    source: Tensor | None = None
    start_latents: Tensor | None = None
    mask: Tensor | None = None
    extra_channels: Tensor | None = None
    branch: BranchInput | None = None
    adapters: tuple[AdapterInput, ...] = ()
    few_step: bool = False
    invert: bool = False
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
    progress: bool = True
    snapshot: Snapshot | None = None
    moved: bool = False
    traceparent: str | None = None

    @property
    def key(self) -> BatchKey:
        channels, height, width = self.noise.shape
        if self.extra_channels is not None:
            channels += len(self.extra_channels)
        tokens, dim = self.prompt_embeds.shape
        added = tuple(sorted((name, tuple(value.shape)) for name, value in self.added_conditions.items()))
        return BatchKey(channels, height, width, tokens, dim, added)

    @property
    def first_step(self) -> int:
        """The step this engine takes first: that of the snapshot where there is one."""
        return self.start_step if self.snapshot is None else self.snapshot.step

    def position(self, step: int) -> int:
        """The step of the ordinary trajectory at whose noise level ``step`` calls the UNet."""
        if self.invert:
            return self.num_inference_steps - 1 - (step - self.start_step)
        return step

    def guided(self, step: int) -> bool:
        """Whether ``step`` needs the unconditional row."""
        start, stop = self.guidance_interval
        return self.guidance_scale > 1 and start <= self.position(step) / self.num_inference_steps < stop

    def branch_at(self, step: int) -> str | None:
        """The name of the branch that acts in ``step``."""
        if self.branch is None or not self.branch.acts(self.position(step), self.num_inference_steps):
            return None
        return self.branch.name

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


@dataclass(frozen=True, eq=False)
class Done(PicklesArrays):
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
