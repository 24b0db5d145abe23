"""Gender swap: the order of things, from one portrait to portraits of somebody of the other gender.

Perception and the pipelines that paint are given to it; it owns no weights. No torch, no ray, no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import fields, replace
from typing import Any

from core.errors import DeadlineExceeded, GenerationFailed
from core.fitting import size_for
from core.specs import (
    GenderSwapSpec,
    GenerationSpec,
    ImageToImageSpec,
    InpaintMode,
    InpaintSpec,
    Strategy,
)
from core.types import ModelInfo, OutputFormat, Picture, PipelineEvent
from deployments.pipeline.gender_swap.families import facts_of
from deployments.pipeline.gender_swap.finishing import finished, shows_nothing
from deployments.pipeline.gender_swap.runs import Runs
from deployments.pipeline.gender_swap.sitting import Perception, Sitting, sit

# What a black result is tried again with.
_MORE_STRENGTH = 0.1
_SHARED = tuple(part.name for part in fields(GenerationSpec))

Inpaint = Callable[[InpaintSpec], AsyncGenerator[PipelineEvent, None]]
ImageToImage = Callable[[ImageToImageSpec], AsyncGenerator[PipelineEvent, None]]


class GenderSwapPipeline:
    """Composes Perception with inpainting (scope ``portrait``) or image-to-image (scope ``whole``)."""

    def __init__(
        self, info: ModelInfo, perception: Perception, inpaint: Inpaint, image_to_image: ImageToImage
    ) -> None:
        self._info = info
        self._facts = facts_of(info.family)
        self._perception = perception
        self._inpaint = inpaint
        self._image_to_image = image_to_image

    async def generate(self, spec: GenderSwapSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first, ``Completed`` last, those of the composed pipeline between them.

        A picture that comes out black is painted once more, a tenth stronger. Raises InvalidRequest for
        a picture without exactly one face, GenerationFailed for one that stays black, and what the
        composed replicas raise. Closing cancels whatever runs.
        """
        runs = Runs(began=time.monotonic())
        sitting = await sit(spec, self._facts, self._perception)
        runs.prepared()
        async with aclosing(self._run(spec, sitting, runs)) as events:
            async for event in events:
                yield event
        black = await self._black(runs, sitting)
        for picture in black:
            if spec.strength >= 1:
                raise _all_black()
            stronger = min(spec.strength + _MORE_STRENGTH, 1.0)
            again = replace(spec, seed=picture.seed, num_images=1, strength=stronger)
            async with aclosing(self._run(again, sitting, runs, picture.index)) as events:
                async for event in events:
                    yield event
        if black and await self._black(runs, sitting):
            raise _all_black()
        pictures = [
            await asyncio.to_thread(finished, picture, spec, sitting.portrait, self._facts.tolerance)
            for picture in runs.pictures
        ]
        yield runs.completed(pictures)

    async def _run(
        self, spec: GenderSwapSpec, sitting: Sitting, runs: Runs, index: int | None = None
    ) -> AsyncGenerator[PipelineEvent, None]:
        """One run of the composed pipeline, its pictures left in ``runs``; ``index`` is whose it paints."""
        asked = replace(spec, deadline_s=_time_left(spec, runs.began))
        if sitting.portrait is None:
            painting = self._image_to_image(self._whole(asked, sitting))
        else:
            painting = self._inpaint(await asyncio.to_thread(self._inside, asked, sitting))
        async with aclosing(painting) as events:
            async for event in events:
                told = runs.told(event, index)
                if told is not None:
                    yield told

    async def _black(self, runs: Runs, sitting: Sitting) -> list[Picture]:
        portrait = sitting.portrait
        judged = [
            (picture, await asyncio.to_thread(shows_nothing, picture, portrait)) for picture in runs.pictures
        ]
        return [picture for picture, black in judged if black]

    def _inside(self, spec: GenderSwapSpec, sitting: Sitting) -> InpaintSpec:
        """Painting inside the portrait's mask, as a file that loses nothing."""
        assert sitting.portrait is not None, "the scope is portrait"
        shared = self._shared(spec, sitting) | {"output_format": OutputFormat.PNG}
        return InpaintSpec(
            **shared,
            image=spec.image,
            mode=InpaintMode.REPLACE,
            mask=sitting.portrait.mask_png,
            mask_grow=round(self._facts.grow * sitting.face.width),
            mask_feather=round(self._facts.feather * sitting.face.width),
            strength=self._facts.strength(spec.strength),
        )

    def _whole(self, spec: GenderSwapSpec, sitting: Sitting) -> ImageToImageSpec:
        width, height = size_for(sitting.width, sitting.height, self._info, None, None)
        return ImageToImageSpec(
            **self._shared(spec, sitting),
            image=spec.image,
            strength=self._facts.strength(spec.strength),
            strategy=Strategy.RESTYLE,
            max_width=width,
            max_height=height,
        )

    def _shared(self, spec: GenderSwapSpec, sitting: Sitting) -> dict[str, Any]:
        wording = sitting.wording
        same = {name: getattr(spec, name) for name in _SHARED}
        return {**same, "prompt": wording.prompt, "negative_prompt": wording.negative_prompt}


def _time_left(spec: GenderSwapSpec, began: float) -> float | None:
    if spec.deadline_s is None:
        return None
    left_s = began + spec.deadline_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("The deadline passed before the picture was done.")
    return left_s


def _all_black() -> GenerationFailed:
    return GenerationFailed("The picture came out black, and no higher strength helped.")
