"""Inpainting: the life of one request, from its picture and mask to its picture files. No ray, no HTTP.

Knows the order of things; masks from words, the picture's caption, VAE and Denoiser are given to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np
import torch

from core.errors import InvalidRequest, MissingPart
from core.specs import FoundMask, InpaintMode, InpaintSpec, MaskSpec
from core.types import Picture, PipelineEvent
from core.uploads import open_mask, open_picture
from deployments.engine.request import noise_for
from deployments.pipeline.captions import Describe, Description, describe_picture
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.inpainting import canvas, filling, masks
from deployments.pipeline.inpainting.canvas import Pixels
from deployments.pipeline.inpainting.conditioning import View
from deployments.pipeline.inpainting.masks import Mask
from deployments.pipeline.inpainting.passes import Pass, pass_inside, passes_beyond
from deployments.pipeline.inpainting.plan import InpaintPlan, Prefill
from deployments.pipeline.inpainting.shapes import loosened
from deployments.pipeline.painting import Painter, Stroke, request_of
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.picture_files import picture_of
from deployments.pipeline.strength import start_step

FindMask = Callable[[MaskSpec], Awaitable[FoundMask]]
# Request, what its picture shows if that is known, and how many of its pixels the model sees as one.
MakePlan = Callable[[InpaintSpec, Description | None, float], InpaintPlan]


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What is to be painted: the picture, the passes over it, what is said to the model.

    ``spec`` has the plan's words and numbers; ``first`` is what the first pass shows to the model.
    """

    spec: InpaintSpec
    plan: InpaintPlan
    picture: Pixels
    passes: tuple[Pass, ...]
    first: View
    embeds: Embeds

    @property
    def start_step(self) -> int:
        return start_step(self.spec.num_inference_steps, self.plan.strength)


class InpaintPipeline:
    """Paints inside masks and beyond edges. ``make_plan`` says how; presets may bring their own."""

    def __init__(
        self,
        parts: PipelineParts,
        painter: Painter,
        make_plan: MakePlan,
        *,
        find_mask: FindMask | None = None,
        describe: Describe | None = None,
    ) -> None:
        self._parts = parts
        self._painter = painter
        self._make_plan = make_plan
        self._find_mask = find_mask
        self._describe = describe

    async def generate(self, spec: InpaintSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first, ``Completed`` last; raise a ``LimnerError``. Closing cancels.

        Raises InvalidRequest for a picture or mask that cannot be used, an empty mask, words that match
        nothing and margins that are none or too wide; MissingPart where nothing finds masks from words.
        """
        began = time.monotonic()
        scene = await self._scene(spec)

        async def paint_one(stroke: Stroke) -> Picture:
            pixels = scene.picture
            for number in range(len(scene.passes)):
                pixels = await self._painted(scene, number, pixels, stroke)
            extra = {"Denoising strength": scene.plan.strength, "Mask blur": scene.plan.mask_feather}
            return await picture_of(pixels, scene.spec, stroke, self._parts.info.model_id, extra)

        painting = self._painter.paint(
            scene.spec,
            paint_one,
            num_steps=len(scene.passes) * (spec.num_inference_steps - scene.start_step),
            decode_s=self._decode_s(scene.passes[-1]),
            began=began,
        )
        async with aclosing(painting) as events:
            async for event in events:
                yield event

    async def _scene(self, spec: InpaintSpec) -> _Scene:
        picture = np.asarray(await asyncio.to_thread(open_picture, spec.image, field="image"))
        (height, width), family = picture.shape[:2], self._parts.info.family
        drawn, description = await asyncio.gather(
            self._drawn_mask(spec, width, height), describe_picture(self._describe, spec.image, family)
        )
        scale = await asyncio.to_thread(self._scale, spec, picture, drawn)
        plan = self._make_plan(spec, description, scale)
        spec = replace(
            spec,
            prompt=plan.prompt,
            negative_prompt=plan.negative_prompt,
            guidance_scale=plan.guidance_scale,
        )
        passes, embeds = await asyncio.gather(
            asyncio.to_thread(self._passes, spec, plan, picture, drawn), plan.conditioning.embed(spec)
        )
        first = await self._view(passes[0], await asyncio.to_thread(passes[0].canvas, picture), plan)
        return _Scene(spec, plan, picture, passes, first, embeds)

    async def _drawn_mask(self, spec: InpaintSpec, width: int, height: int) -> Mask | None:
        """The mask as the request has it, ``[h, w]`` of the picture; None for outpainting."""
        if spec.mode is InpaintMode.OUTPAINT:
            return None
        found = None
        if spec.mask is None and spec.mask_prompt is not None:
            if self._find_mask is None:
                raise MissingPart("Nothing here finds masks from words.", field="mask_prompt")
            asked = MaskSpec(request_id=spec.request_id, image=spec.image, words=spec.mask_prompt)
            found = await self._find_mask(asked)
        return await asyncio.to_thread(_mask_of, spec, found, width, height)

    def _scale(self, spec: InpaintSpec, picture: Pixels, drawn: Mask | None) -> float:
        info, box = self._parts.info, canvas.whole(picture)
        if spec.only_masked and drawn is not None:
            box = canvas.around(drawn, spec.only_masked_padding, info)
        return canvas.working_on(box, info).scale

    def _passes(
        self, spec: InpaintSpec, plan: InpaintPlan, picture: Pixels, drawn: Mask | None
    ) -> tuple[Pass, ...]:
        info = self._parts.info
        if drawn is None:
            height, width = picture.shape[:2]
            if spec.margins is None:
                raise InvalidRequest("Outpainting needs margins.", field="margins")
            return passes_beyond(
                spec.margins,
                width=width,
                height=height,
                feather=plan.mask_feather,
                reach=plan.reach,
                info=info,
            )
        fitted = loosened(drawn, plan.fitting_degree)
        mask = masks.feathered(masks.grown(fitted, plan.mask_grow), plan.mask_feather)
        box = canvas.whole(picture)
        if spec.only_masked:
            box = canvas.around(mask, spec.only_masked_padding, info)
        return (pass_inside(mask, box, info),)

    async def _painted(self, scene: _Scene, number: int, picture: Pixels, stroke: Stroke) -> Pixels:
        """``picture`` after pass ``number``."""
        now, plan = scene.passes[number], scene.plan
        pixels = await asyncio.to_thread(now.canvas, picture)
        view = await self._view(now, pixels, plan) if number else scene.first
        # Each pass draws noise of its own, the first that of the seed alone.
        seed = stroke.seed + (number << 32)
        request = request_of(
            scene.spec,
            stroke,
            scene.embeds,
            noise_for(seed, tuple(view.latents.shape)),
            self._parts.encoder.factor,
        )
        request = replace(request, seed=seed, start_step=scene.start_step)
        latents = await stroke.denoise(await plan.conditioning.apply(request, view))
        painted = await self._parts.decoder.decode(latents)
        if plan.matched:
            painted = await asyncio.to_thread(filling.matched, painted, view.pixels, view.hole)
        return await asyncio.to_thread(now.working.pasted, pixels, painted, now.mask)

    async def _view(self, now: Pass, pixels: Pixels, plan: InpaintPlan) -> View:
        """What pass ``now`` shows to the model of the canvas ``pixels``."""
        factor = self._parts.encoder.factor

        def prepared() -> tuple[Pixels, Mask, Mask]:
            shown, hole = now.working.shown(pixels), now.working.region(now.mask)
            if plan.prefill is Prefill.SURROUNDINGS:
                shown = filling.from_surroundings(shown, hole > 0)
            return shown, hole, now.working.region(now.mask, factor)

        shown, hole, mask = await asyncio.to_thread(prepared)
        latents = await self._parts.encoder.encode(shown)
        return View(shown, latents, hole > 0, torch.from_numpy(mask)[None])

    def _decode_s(self, now: Pass) -> float:
        fitted = now.working.fitted
        return self._parts.decoder.estimate_s(fitted.padded_width, fitted.padded_height)


def _mask_of(spec: InpaintSpec, found: FoundMask | None, width: int, height: int) -> Mask:
    """The mask that ``spec`` draws, or that was ``found`` for its words. Raises for one that is empty."""
    if spec.mask is not None:
        return masks.checked(open_mask(spec.mask, size=(width, height), field="mask"), "mask")
    if found is not None:
        if not found.coverage:
            raise InvalidRequest("Nothing in the picture matches these words.", field="mask_prompt")
        soft = open_mask(found.mask, size=(width, height), field="mask_prompt")
        # Its softness is doubt, not a wish to blend.
        return masks.checked(masks.solid(soft), "mask_prompt")
    if spec.box is None:
        raise InvalidRequest("A mask, words for one or a box is needed.", field="mask")
    return masks.checked(masks.of_box(spec.box, width=width, height=height), "box")
