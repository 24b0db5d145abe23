"""A portrait, those who look at it, and those who paint it, for the tests of the gender swap."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core import images
from core.specs import Box, Face, FoundMask, GenderSwapSpec, Presentation, SwapScope
from core.types import (
    Accepted,
    Completed,
    ModelInfo,
    OutputFormat,
    Picture,
    PipelineEvent,
    Preview,
    Progress,
    SamplerName,
    Timings,
)

Pixels = npt.NDArray[np.uint8]

SIDE = 32
BACKGROUND, SKIN, BLACK, WHITE = (250, 220, 90), (160, 100, 60), (0, 0, 0), (255, 255, 255)
FACE = Face(box=Box(left=12, top=10, width=8, height=10), score=0.9)
TIMINGS = Timings(0.1, 1.0, 0.2, 1.3)


def model(family: str = "mini") -> ModelInfo:
    return ModelInfo(
        model_id=family,
        family=family,
        description="",
        default_size=64,
        min_size=32,
        max_size=128,
        size_multiple=8,
        max_clip_skip=1,
        prediction_type="v_prediction",
        default_sampler=SamplerName.EULER,
        default_num_inference_steps=4,
        default_guidance_scale=3.0,
    )


def flat(color: tuple[int, int, int]) -> Pixels:
    return np.full((SIDE, SIDE, 3), color, np.uint8)


def portrait() -> Pixels:
    """A person from the ninth row down, on a flat background."""
    pixels = flat(BACKGROUND)
    pixels[8:, 10:22] = SKIN
    return pixels


def png(pixels: Pixels, parameters: str = "") -> bytes:
    return images.encode(pixels, OutputFormat.PNG, parameters=parameters)


def opened(image: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def found(where: npt.NDArray[np.bool_]) -> FoundMask:
    grey = np.where(where, 255, 0).astype(np.uint8)
    height, width = where.shape
    return FoundMask(mask=png(grey), coverage=float(where.mean()), width=width, height=height)


def spec_of(**changes: Any) -> GenderSwapSpec:
    values: dict[str, Any] = {
        "request_id": "r",
        "prompt": "",
        "negative_prompt": "",
        "num_inference_steps": 30,
        "guidance_scale": 3.0,
        "seed": 7,
        "num_images": 1,
        "sampler": SamplerName.EULER,
        "image": png(portrait()),
        "target": Presentation.WOMAN,
        "scope": SwapScope.PORTRAIT,
        "strength": 0.6,
    }
    return GenderSwapSpec(**values | changes)


class ScriptedPainter:
    """A pipeline that tells a few steps and answers each request with its next picture.

    Pictures are made from the request by functions; an error in their place is raised after ``Accepted``,
    at a None the request never ends.
    """

    def __init__(self, *scripts: Callable[[Any], Pixels] | Pixels | Exception | None) -> None:
        self._scripts = list(scripts)
        self.specs: list[Any] = []
        self.num_closed = 0

    async def __call__(self, spec: Any) -> AsyncGenerator[PipelineEvent, None]:
        script = self._scripts[len(self.specs)]
        self.specs.append(spec)
        try:
            yield Accepted(spec.request_id, 2.0)
            if isinstance(script, Exception):
                raise script
            if script is None:
                await asyncio.get_running_loop().create_future()
            yield Progress(2, 4, 1.0)
            yield Preview(0, 2, b"preview")
            yield Progress(4, 4, 0.0)
            yield Completed(tuple(self._pictures(spec, script)), TIMINGS)
        finally:
            self.num_closed += 1

    def _pictures(self, spec: Any, script: Any) -> Sequence[Picture]:
        pictures = []
        for index in range(spec.num_images):
            pixels = script(spec) if callable(script) else script
            image = images.encode(pixels, spec.output_format, parameters=f"made from {spec.prompt}")
            size = pixels.shape[1], pixels.shape[0]
            pictures.append(Picture(index, spec.seed + index, image, spec.output_format.media_type, *size))
        return pictures
