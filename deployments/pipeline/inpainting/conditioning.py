"""How a UNet learns of the mask: latents blended at every step, or the mask among its input channels.

Knows tensors and what the engine takes; nothing of picture sizes, modes or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from core.specs import GenerationSpec
from deployments.engine.request import DenoiseRequest
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.inpainting.canvas import Pixels
from deployments.pipeline.parts import PipelineParts


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the model works on: prefilled ``pixels`` ``[h, w, 3]`` and their ``latents`` ``[c, h/f, w/f]``.

    ``hole`` ``[h, w]`` is what will be painted, ``mask`` ``[1, h/f, w/f]`` the same for latents, 0 or 1.
    """

    pixels: Pixels
    latents: torch.Tensor
    hole: npt.NDArray[np.bool_]
    mask: torch.Tensor


class Conditioning(Protocol):
    """One way to tell a UNet what to paint and where."""

    num_extra_channels: int

    async def embed(self, spec: GenerationSpec) -> Embeds:
        """The embeddings of the prompts of ``spec``, which are the plan's. Raises :class:`InvalidRequest`."""
        ...

    async def apply(self, request: DenoiseRequest, view: View) -> DenoiseRequest:
        """``request``, which has prompts, noise and a start step, with what ``view`` adds to it."""
        ...


class LatentBlending:
    """For any UNet of four channels: outside the mask, each step ends in the noised picture itself.

    As in diffusers' ``StableDiffusionInpaintPipeline``; Blended Latent Diffusion (Avrahami et al. 2023).
    """

    num_extra_channels = 0

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts

    async def embed(self, spec: GenerationSpec) -> Embeds:
        return await self._parts.embed(spec)

    async def apply(self, request: DenoiseRequest, view: View) -> DenoiseRequest:
        return replace(request, source=view.latents, mask=view.mask)


class MaskedPicture:
    """For a UNet of nine channels, trained to inpaint: the mask and the picture without its hole.

    As in diffusers: the hole is set to 0 in [-1, 1] before the picture is encoded.
    """

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts
        self.num_extra_channels = 1 + parts.encoder.latent_channels

    async def embed(self, spec: GenerationSpec) -> Embeds:
        return await self._parts.embed(spec)

    async def apply(self, request: DenoiseRequest, view: View) -> DenoiseRequest:
        masked = np.where(view.hole[..., None], np.float32(127.5), view.pixels)
        known = await self._parts.encoder.encode(masked)
        return replace(
            request,
            # At full strength diffusers starts from noise alone.
            source=view.latents if request.start_step else None,
            extra_channels=torch.cat([view.mask, known]),
        )


def conditioning_for(parts: PipelineParts, unet_channels: int) -> Conditioning:
    """The one that a UNet with so many input channels was made for."""
    if unet_channels > parts.encoder.latent_channels:
        return MaskedPicture(parts)
    return LatentBlending(parts)
