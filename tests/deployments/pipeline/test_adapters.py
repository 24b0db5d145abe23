"""Adapters through every pipeline in one process: real files, cache and slots, the tiny family's networks."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from core.errors import BrokenAdapter, NotFound
from core.specs import (
    AdapterUse,
    FoundMask,
    GenerationSpec,
    Hires,
    ImageToImageSpec,
    InpaintMode,
    Margins,
    MaskSpec,
    Strategy,
    TextToImageSpec,
    UpscaleSpec,
)
from core.types import Completed, SamplerName
from deployments.engine.request import AdapterInput, DenoiseEvent, DenoiseRequest
from deployments.pipeline.denoising import Denoise
from deployments.pipeline.image_to_image import ImageToImagePipeline
from deployments.pipeline.inpainting.conditioning import conditioning_for
from deployments.pipeline.inpainting.pipeline import InpaintPipeline
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.text_to_image import TextToImagePipeline
from deployments.pipeline.upscale import UpscalePipeline
from store.blobs import Blobs
from store.keys import adapter_file
from tests.adapter_files import merged_family, put, random_layers
from tests.deployments.pipeline.inpainting.pictures import MASK, PICTURE, planning, png
from tests.deployments.pipeline.inpainting.pictures import SPEC as INPAINT
from tests.replicas import Replicas
from weights import registry
from weights.adapters import AdapterWeights

WEIGHTS = {"adp_a": 0.8, "adp_b": -0.5}
USES = tuple(AdapterUse(adapter_id=each, weight=weight, sha256="") for each, weight in WEIGHTS.items())
INPUTS = tuple(AdapterInput(adapter_id=each, weight=weight) for each, weight in WEIGHTS.items())

COMMON: dict[str, Any] = {
    "request_id": "r",
    "prompt": "red hair man",
    "negative_prompt": "dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "seed": 7,
    "num_images": 1,
    "sampler": SamplerName.DDIM,
}
DRAWN = TextToImageSpec(**COMMON, width=32, height=32)
RESTYLED = ImageToImageSpec(
    **COMMON, image=png(PICTURE), strength=0.6, strategy=Strategy.RESTYLE, max_width=32, max_height=32
)
PAINTED = replace(INPAINT, num_inference_steps=4)


async def find_mask(spec: MaskSpec) -> FoundMask:
    return FoundMask(mask=png(MASK), coverage=0.4, width=32, height=32)


def text_to_image(parts: PipelineParts, denoise: Denoise) -> TextToImagePipeline:
    return TextToImagePipeline(parts, Painter(denoise))


def image_to_image(parts: PipelineParts, denoise: Denoise) -> ImageToImagePipeline:
    return ImageToImagePipeline(parts, Painter(denoise), describe=None, structure=True)


def upscale(parts: PipelineParts, denoise: Denoise) -> UpscalePipeline:
    return UpscalePipeline(parts, Painter(denoise))


def inpaint(parts: PipelineParts, denoise: Denoise) -> InpaintPipeline:
    plans = planning(conditioning_for(parts, 4))
    return InpaintPipeline(parts, Painter(denoise), plans, find_mask=find_mask)


BY_WORDS = replace(PAINTED, mask=None, mask_prompt="hair")
PASSES: list[tuple[Callable[[PipelineParts, Denoise], Any], GenerationSpec, int]] = [
    (text_to_image, replace(DRAWN, num_images=2), 2),
    (text_to_image, replace(DRAWN, hires=Hires(scale=2.0, strength=0.5)), 10),
    (image_to_image, RESTYLED, 1),
    (image_to_image, replace(RESTYLED, strategy=Strategy.VARIATION), 1),
    (image_to_image, replace(RESTYLED, strategy=Strategy.PRESERVE), 2),
    (image_to_image, replace(RESTYLED, strategy=Strategy.STRUCTURE), 1),
    (upscale, UpscaleSpec(**COMMON, image=png(PICTURE), scale=2, strength=0.5), 9),
    (inpaint, PAINTED, 1),
    (inpaint, replace(PAINTED, mode=InpaintMode.ADD), 1),
    (inpaint, replace(PAINTED, mode=InpaintMode.REMOVE), 1),
    (inpaint, replace(BY_WORDS, only_masked=True), 1),
    (inpaint, replace(PAINTED, mode=InpaintMode.OUTPAINT, mask=None, margins=Margins(right=48)), 3),
]


@pytest.fixture(scope="module")
def adapters(tiny_model_id: str) -> dict[str, AdapterWeights]:
    unet = registry.load_unet(tiny_model_id)
    return {name: AdapterWeights(random_layers(unet, seed), {}) for seed, name in enumerate(WEIGHTS)}


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory, adapters: dict[str, AdapterWeights]) -> Blobs:
    made = Blobs(f"file://{tmp_path_factory.mktemp('blobs')}")
    for name, weights in adapters.items():
        put(made, name, weights)
    return made


@pytest.fixture(scope="module")
def adapted(tiny_model_id: str, blobs: Blobs) -> Iterator[Replicas]:
    started = Replicas(tiny_model_id, 1, blobs)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def merged(
    tiny_family: Path, tmp_path_factory: pytest.TempPathFactory, adapters: dict[str, AdapterWeights]
) -> Iterator[Replicas]:
    """A Denoiser whose UNet has both adapters in its own weights."""
    sums = {WEIGHTS[name]: weights for name, weights in adapters.items()}
    folder = merged_family(tiny_family, tmp_path_factory.mktemp("merged") / "model", sums)
    started = Replicas(f"path:{folder}", 1)
    yield started
    started.stop()


async def picture(pipeline: Any, spec: GenerationSpec) -> npt.NDArray[np.int16]:
    events = [event async for event in pipeline.generate(spec)]
    assert isinstance(events[-1], Completed)
    return np.asarray(Image.open(io.BytesIO(events[-1].pictures[0].image)), np.int16)


@pytest.mark.parametrize(("build", "spec", "num_passes"), PASSES)
async def test_every_pass_asks_for_the_adapters_of_its_request(
    tiny_parts: PipelineParts,
    adapted: Replicas,
    build: Callable[[PipelineParts, Denoise], Any],
    spec: GenerationSpec,
    num_passes: int,
) -> None:
    seen: list[DenoiseRequest] = []

    async def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        seen.append(request)
        async for event in adapted.denoise(replace(request, branch=None)):
            yield event

    await picture(build(tiny_parts, denoise), replace(spec, adapters=USES))
    assert [request.adapters for request in seen] == [INPUTS] * num_passes


@pytest.mark.parametrize(
    ("build", "spec"),
    [
        (text_to_image, DRAWN),
        (image_to_image, replace(RESTYLED, strategy=Strategy.PRESERVE)),
        (inpaint, BY_WORDS),
    ],
)
async def test_the_picture_is_that_of_a_unet_with_the_adapters_in_its_weights(
    tiny_parts: PipelineParts,
    adapted: Replicas,
    merged: Replicas,
    build: Callable[[PipelineParts, Denoise], Any],
    spec: GenerationSpec,
) -> None:
    pipeline = build(tiny_parts, adapted.denoise)
    plain, drawn = await asyncio.gather(
        picture(pipeline, spec), picture(pipeline, replace(spec, adapters=USES))
    )
    expected = await picture(build(tiny_parts, merged.denoise), spec)
    assert np.abs(drawn - plain).mean() > 2
    assert np.abs(drawn - expected).max() <= 1
    unadapted = await picture(build(tiny_parts, adapted.denoise), spec)
    # It has other rows beside it in one of the two.
    assert np.abs(plain - unadapted).max() <= 1


async def test_a_request_that_is_handed_back_takes_its_adapters_along(
    tiny_parts: PipelineParts, adapted: Replicas, tiny_model_id: str, blobs: Blobs
) -> None:
    spec = replace(DRAWN, adapters=USES)
    expected = await picture(text_to_image(tiny_parts, adapted.denoise), spec)
    leaving = Replicas(tiny_model_id, 2, blobs)
    leaving.hand_back_after = 2
    drawn = await picture(text_to_image(tiny_parts, leaving.denoise), spec)
    assert leaving.current == 1
    assert leaving.engines[1].resident_adapters() == set(WEIGHTS)
    leaving.stop()
    assert np.abs(drawn - expected).max() <= 1


async def test_a_request_whose_adapter_is_gone_or_broken_fails_alone(
    tiny_parts: PipelineParts, adapted: Replicas, blobs: Blobs
) -> None:
    blobs.write(adapter_file("adp_broken"), b"not an adapter")
    pipeline = text_to_image(tiny_parts, adapted.denoise)

    def using(*adapter_ids: str) -> TextToImageSpec:
        uses = [AdapterUse(adapter_id=each, weight=1.0, sha256="") for each in adapter_ids]
        return replace(DRAWN, adapters=tuple(uses))

    alone = await picture(pipeline, using("adp_a"))
    specs = using("adp_a"), using("adp_a", "adp_gone"), using("adp_broken"), DRAWN
    done, gone, broken, plain = await asyncio.gather(
        *(picture(pipeline, spec) for spec in specs), return_exceptions=True
    )
    assert isinstance(gone, NotFound)
    assert isinstance(broken, BrokenAdapter)
    assert isinstance(done, np.ndarray)
    assert np.abs(done - alone).max() <= 1
    assert isinstance(plain, np.ndarray)
    assert np.abs(plain - alone).mean() > 2
