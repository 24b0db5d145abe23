"""How a UNet with learned tasks is told what to paint and where.

Knows tensors and what the engine takes; nothing of modes, sizes or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from core.specs import GenerationSpec, Task
from deployments.engine.branch import BranchInput
from deployments.engine.request import DenoiseRequest
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.encoder import PictureEncoder
from deployments.pipeline.inpainting.conditioning import MaskedPicture, View
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.powerpaint.prompts import Layout, TaskPrompts

# The name of the branch in the Denoiser of its family.
BRANCH = "powerpaint"


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """The task of one request."""

    parts: PipelineParts
    prompts: TaskPrompts
    task: Task
    fitting_degree: float

    async def embed(self, spec: GenerationSpec) -> Embeds:
        async with self.parts.adapting(spec) as adapted:
            return await self.prompts.encode(
                self.task,
                spec.prompt,
                spec.negative_prompt if spec.guidance_scale > 1 else None,
                fitting_degree=self.fitting_degree,
                clip_skip=spec.clip_skip,
                adapted=adapted,
            )


class TokenConditioning:
    """v1: the task among the words of the prompt, the mask among the input channels of the UNet."""

    def __init__(self, told: _Told, parts: PipelineParts) -> None:
        self._told = told
        self._picture = MaskedPicture(parts)
        self.num_extra_channels = self._picture.num_extra_channels

    async def embed(self, spec: GenerationSpec) -> Embeds:
        return await self._told.embed(spec)

    async def apply(self, request: DenoiseRequest, view: View) -> DenoiseRequest:
        return await self._picture.apply(request, view)


class BranchConditioning:
    """v2: words for the UNet; task, mask and the picture with a black hole for the branch beside it.

    As released, nothing holds the latents outside the mask to the picture: the branch sees to that.
    """

    num_extra_channels = 0

    def __init__(self, told: _Told, encoder: PictureEncoder) -> None:
        self._told = told
        self._encoder = encoder

    async def embed(self, spec: GenerationSpec) -> Embeds:
        return await self._told.embed(spec)

    async def apply(self, request: DenoiseRequest, view: View) -> DenoiseRequest:
        told, guided = self._told, request.negative_embeds is not None
        text = await told.prompts.for_branch(told.task, fitting_degree=told.fitting_degree, guided=guided)
        known = await self._encoder.encode(np.where(view.hole[..., None], np.uint8(0), view.pixels))
        asked = BranchInput(
            name=BRANCH,
            # The branch was trained on a mask of what is kept.
            conditioning=torch.cat([known, 1 - view.mask]),
            prompt_embeds=text.positive,
            negative_embeds=text.negative,
        )
        return replace(request, source=view.latents if request.start_step else None, branch=asked)


def conditioning_of(
    parts: PipelineParts, prompts: TaskPrompts, task: Task, fitting_degree: float
) -> TokenConditioning | BranchConditioning:
    """The one that fits the family's layout, for one request."""
    told = _Told(parts, prompts, task, fitting_degree)
    if prompts.layout is Layout.V1:
        return TokenConditioning(told, parts)
    return BranchConditioning(told, parts.encoder)
