"""Image to image: a picture and words to pictures, by one of four strategies. No ray, no HTTP.

Knows what each strategy keeps of the picture; the text encoder, the VAE and the Denoiser are given to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from core.errors import MissingPart
from core.fitting import Fitted, fit
from core.specs import ImageToImageSpec, Strategy
from core.types import ModelInfo, Picture, PipelineEvent, SamplerName
from core.uploads import open_picture
from deployments.engine.branch import BranchInput
from deployments.engine.request import DenoiseRequest, noise_for
from deployments.pipeline.captions import Describe, Description, describe_picture
from deployments.pipeline.edges import canny
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.inpainting.words import with_what_stays
from deployments.pipeline.networks import STRUCTURE_BRANCH
from deployments.pipeline.painting import Painter, Stroke, request_of
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.picture_files import picture_of
from deployments.pipeline.refining import hires_of, refine
from deployments.pipeline.strength import start_step

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """What is to be painted: the fitted picture, its latents ``[c, h, w]``, the words about it."""

    spec: ImageToImageSpec
    fitted: Fitted
    pixels: Pixels
    source: torch.Tensor
    embeds: Embeds
    source_embeds: Embeds

    @property
    def start_step(self) -> int:
        return start_step(self.spec.num_inference_steps, self.spec.strength)


class ImageToImagePipeline:
    """Paints pictures from a picture. ``structure`` is whether the Denoiser has a ControlNet on edges."""

    def __init__(
        self, parts: PipelineParts, painter: Painter, *, describe: Describe | None, structure: bool
    ) -> None:
        self._parts = parts
        self._painter = painter
        self._describe = describe
        self._structure = structure

    async def generate(self, spec: ImageToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first, ``Completed`` last; raise a ``LimnerError``. Closing cancels.

        Raises InvalidRequest for an unreadable picture, MissingPart where the family lacks what the
        strategy needs.
        """
        began = time.monotonic()
        subject = await self._subject(spec)
        fitted, info = subject.fitted, self._parts.info
        hires = hires_of(spec, info, fitted.width, fitted.height)

        async def paint_one(stroke: Stroke) -> Picture:
            latents = await self._denoised(subject, stroke)
            pixels = (await self._parts.decoder.decode(latents))[: fitted.height, : fitted.width]
            if hires is not None:
                pixels = await refine(pixels, hires, spec, stroke, subject.embeds, self._parts)
            extra = {"Denoising strength": spec.strength, "Strategy": spec.strategy.value}
            return await picture_of(np.ascontiguousarray(pixels), subject.spec, stroke, info.model_id, extra)

        num_passes = 2 if spec.strategy is Strategy.PRESERVE else 1
        num_steps = num_passes * (spec.num_inference_steps - subject.start_step)
        painting = self._painter.paint(
            subject.spec,
            paint_one,
            num_steps=num_steps + (hires.num_steps if hires else 0),
            decode_s=self._parts.decoder.estimate_s(fitted.padded_width, fitted.padded_height),
            began=began,
        )
        async with aclosing(painting) as events:
            async for event in events:
                yield event

    async def _subject(self, spec: ImageToImageSpec) -> _Subject:
        if spec.strategy is Strategy.STRUCTURE and not self._structure:
            raise MissingPart(
                f"The model {self._parts.info.model_id} has no ControlNet for edges, which the strategy "
                "structure needs.",
                field="strategy",
            )
        picture = await asyncio.to_thread(open_picture, spec.image, field="image")
        fitted = fitted_to(self._parts.info, picture, spec)
        pixels = await asyncio.to_thread(resized, picture, fitted)
        description = None
        if spec.strategy is Strategy.PRESERVE or (spec.strategy is Strategy.VARIATION and not spec.prompt):
            description = await describe_picture(self._describe, spec.image, self._parts.info.family)
        caption = description.caption if description else ""
        spec = _worded(spec, description, self._parts.info.family)
        embeds, source = await asyncio.gather(self._parts.embed(spec), self._parts.encoder.encode(pixels))
        source_embeds = embeds
        if spec.strategy is Strategy.PRESERVE:
            source_embeds, embeds = await self._preserving(spec, caption)
        return _Subject(spec, fitted, pixels, source, embeds, source_embeds)

    async def _preserving(self, spec: ImageToImageSpec, caption: str) -> tuple[Embeds, Embeds]:
        """The picture's own words for the way up, and in place of the negative prompt on the way down.

        So guidance points from what the picture shows to what the prompt asks for, and is nothing where
        both agree (negative-prompt inversion, Miyake et al. 2023).
        """
        own = ", ".join(words for words in (caption, spec.negative_prompt) if words)
        told = await self._parts.embed_words(spec, spec.prompt, own)
        guided = told if spec.guidance_scale > 1 else Embeds(told.positive, None, told.pooled)
        return told.inverse, guided

    async def _denoised(self, subject: _Subject, stroke: Stroke) -> torch.Tensor:
        request = self._request(subject, subject.embeds, stroke)
        if subject.spec.strategy is not Strategy.PRESERVE:
            return await stroke.denoise(request)
        upward = replace(
            self._request(subject, subject.source_embeds, stroke),
            invert=True,
            guidance_scale=1.0,
            preview_every=0,
        )
        latents = await stroke.denoise(upward)
        return await stroke.denoise(replace(request, source=None, start_latents=latents))

    def _request(self, subject: _Subject, embeds: Embeds, stroke: Stroke) -> DenoiseRequest:
        spec = subject.spec
        noise = noise_for(stroke.seed, tuple(subject.source.shape))
        request = request_of(spec, stroke, embeds, noise, self._parts.encoder.factor)
        branch = None
        if spec.strategy is Strategy.STRUCTURE:
            edges = torch.from_numpy(canny(subject.pixels)).expand(3, -1, -1).clone()
            branch = BranchInput(name=STRUCTURE_BRANCH, conditioning=edges)
            if spec.strength >= 1:
                # The edges alone are kept: an ordinary picture from noise.
                return replace(request, branch=branch)
        return replace(request, source=subject.source, start_step=subject.start_step, branch=branch)


def fitted_to(info: ModelInfo, picture: Image.Image, spec: ImageToImageSpec) -> Fitted:
    """The size at which ``picture`` is worked on: its aspect ratio, within the bounds of ``spec``."""
    return fit(
        picture.width,
        picture.height,
        max_area=None,
        max_width=spec.max_width,
        max_height=spec.max_height,
        multiple=info.size_multiple,
        max_side=info.max_size,
    )


def resized(picture: Image.Image, fitted: Fitted) -> Pixels:
    """``picture`` scaled evenly and continued at its edges to the padded size, ``[h, w, 3]``."""
    scaled = np.asarray(picture.resize((fitted.width, fitted.height), Image.Resampling.LANCZOS))
    below, beside = fitted.padded_height - fitted.height, fitted.padded_width - fitted.width
    return np.pad(scaled, ((0, below), (0, beside), (0, 0)), mode="edge")


def _worded(spec: ImageToImageSpec, description: Description | None, family: str) -> ImageToImageSpec:
    """``spec`` as it will be carried out: the sampler that inversion needs, and the picture's own words."""
    if spec.strategy is Strategy.PRESERVE:
        # Against the picture's caption, a prompt that leaves a fact out would ask for its opposite.
        prompt = with_what_stays(spec.prompt, description, family)
        return replace(spec, sampler=SamplerName.DDIM, prompt=prompt)
    return replace(spec, prompt=spec.prompt or (description.caption if description else ""))
