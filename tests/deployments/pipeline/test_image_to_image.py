"""Image-to-image in one process: real text encoder, VAE, engine and UNet of the tiny family."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from core.errors import InvalidRequest, MissingPart
from core.specs import ImageToImageSpec, Strategy
from core.types import Completed, Progress, SamplerName
from deployments.engine.request import DenoiseEvent, DenoiseRequest, Done, noise_for
from deployments.pipeline.image_to_image import ImageToImagePipeline
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts
from tests.replicas import Replicas
from weights import registry

# diffusers converts tensors in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PIXELS = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


SPEC = ImageToImageSpec(
    request_id="r",
    prompt="red hair man",
    negative_prompt="dog",
    num_inference_steps=10,
    guidance_scale=5.0,
    seed=7,
    num_images=1,
    sampler=SamplerName.DDIM,
    image=png(PIXELS),
    strength=0.6,
    strategy=Strategy.RESTYLE,
    max_width=32,
    max_height=32,
)


def pipeline(parts: PipelineParts, replicas: Replicas, **options: bool) -> ImageToImagePipeline:
    structure = options.get("structure", False)
    return ImageToImagePipeline(parts, Painter(replicas.denoise), describe=None, structure=structure)


async def completed(
    drawing: ImageToImagePipeline, spec: ImageToImageSpec
) -> tuple[Completed, list[Progress]]:
    events = [event async for event in drawing.generate(spec)]
    assert isinstance(events[-1], Completed)
    return events[-1], [event for event in events if isinstance(event, Progress)]


def pixels_of(done: Completed) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(done.pictures[0].image)))


def psnr_db(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    error = np.square(one.astype(float) - other.astype(float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("sampler", [SamplerName.DDIM, SamplerName.DPMPP_2M])
@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
async def test_restyling_gives_the_picture_of_the_diffusers_pipeline(
    tiny_parts: PipelineParts, replicas: Replicas, tiny_family: Path, strength: float, sampler: SamplerName
) -> None:
    spec = replace(SPEC, strength=strength, sampler=sampler)
    done, _ = await completed(pipeline(tiny_parts, replicas), spec)
    reference = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_family, safety_checker=None)
    reference.set_progress_bar_config(disable=True)
    if sampler is SamplerName.DPMPP_2M:
        from deployments.engine.samplers import NoiseSchedule, scheduler_for

        schedule = NoiseSchedule.from_config(registry.scheduler_config(tiny_parts.info.model_id))
        reference.scheduler = scheduler_for(sampler, schedule)
    latents = await tiny_parts.encoder.encode(PIXELS)
    # Given latents, diffusers draws nothing before the noise either.
    expected = reference(
        spec.prompt,
        image=latents[None],
        strength=strength,
        negative_prompt=spec.negative_prompt,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(spec.seed),
    ).images[0]
    assert psnr_db(pixels_of(done), np.asarray(expected)) > 45


async def test_preserving_goes_up_with_the_pictures_words_and_down_from_there(
    tiny_parts: PipelineParts, replicas: Replicas
) -> None:
    seen: list[DenoiseRequest] = []
    ended: list[torch.Tensor] = []

    async def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        seen.append(request)
        async for event in replicas.denoise(request):
            if isinstance(event, Done):
                ended.append(event.latents)
            yield event

    spec = replace(SPEC, strategy=Strategy.PRESERVE, sampler=SamplerName.EULER)
    drawing = ImageToImagePipeline(tiny_parts, Painter(denoise), describe=None, structure=False)
    done, progress = await completed(drawing, spec)
    assert {event.num_steps for event in progress} == {12}
    up, down = seen
    own_words, prompt, *_ = await tiny_parts.prompts.embeds(spec.negative_prompt, spec.prompt)
    assert (up.invert, up.guidance_scale, up.sampler, up.start_step) == (True, 1.0, SamplerName.DDIM, 4)
    assert torch.equal(up.prompt_embeds, own_words)
    assert up.source is not None
    assert (down.invert, down.guidance_scale, down.sampler, down.start_step) == (False, 5.0, "ddim", 4)
    assert down.source is None
    assert down.start_latents is not None
    assert torch.equal(down.start_latents, ended[0])
    assert prompt is not None
    assert torch.equal(down.prompt_embeds, prompt)
    assert down.negative_embeds is not None
    assert torch.equal(down.negative_embeds, own_words)
    text = Image.open(io.BytesIO(done.pictures[0].image)).info["parameters"]
    assert "Sampler: DDIM" in text
    assert "Strategy: preserve" in text


async def test_preserving_with_the_pictures_own_words_gives_the_picture_back(
    tiny_parts: PipelineParts, replicas: Replicas
) -> None:
    smooth = np.full((32, 32, 3), 120, np.uint8)
    spec = replace(
        SPEC,
        strategy=Strategy.PRESERVE,
        prompt=" ",
        negative_prompt=" ",
        num_inference_steps=50,
        image=png(smooth),
        strength=0.4,
    )
    done, _ = await completed(pipeline(tiny_parts, replicas), spec)
    through_vae = tiny_parts.decoder.decode_batch([await tiny_parts.encoder.encode(smooth)])[0]
    other, _ = await completed(pipeline(tiny_parts, replicas), replace(spec, prompt="red hair man"))
    assert psnr_db(pixels_of(done), through_vae) > psnr_db(pixels_of(other), through_vae) + 3


async def test_structure_without_a_controlnet_is_a_conflict_that_names_it(
    tiny_parts: PipelineParts, replicas: Replicas
) -> None:
    with pytest.raises(MissingPart, match="ControlNet") as refused:
        await completed(pipeline(tiny_parts, replicas), replace(SPEC, strategy=Strategy.STRUCTURE))
    assert (refused.value.status, refused.value.field) == (409, "strategy")


@pytest.mark.parametrize("strength", [0.5, 1.0])
async def test_structure_gives_the_edges_to_the_branch(
    tiny_parts: PipelineParts, replicas: Replicas, strength: float
) -> None:
    seen: list[DenoiseRequest] = []

    async def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        seen.append(request)
        async for event in replicas.denoise(replace(request, branch=None)):
            yield event

    drawing = ImageToImagePipeline(tiny_parts, Painter(denoise), describe=None, structure=True)
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 255
    spec = replace(SPEC, strategy=Strategy.STRUCTURE, strength=strength, image=png(picture))
    await completed(drawing, spec)
    (request,) = seen
    assert request.branch is not None
    edges = request.branch.conditioning
    assert edges.shape == (3, 32, 32)
    assert edges[:, :, 14:18].any()
    assert not edges[:, :, :8].any()
    assert (request.source is None) == (strength == 1.0)
    assert torch.equal(request.noise, noise_for(7, tuple(request.noise.shape)))


async def test_a_variation_takes_the_pictures_own_caption(
    tiny_parts: PipelineParts, replicas: Replicas
) -> None:
    asked: list[Mapping[str, tuple[str, ...]]] = []

    async def describe(image: bytes, questions: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, float]]:
        asked.append(questions)
        return {
            name: {phrase: float(not place) for place, phrase in enumerate(phrases)}
            for name, phrases in questions.items()
        }

    parts = replace(tiny_parts, info=replace(tiny_parts.info, family="mini"))
    drawing = ImageToImagePipeline(parts, Painter(replicas.denoise), describe=describe, structure=False)
    spec = replace(SPEC, strategy=Strategy.VARIATION, prompt="", strength=0.3)
    done, _ = await completed(drawing, spec)
    text = Image.open(io.BytesIO(done.pictures[0].image)).info["parameters"]
    assert text.startswith("cartoon portrait of a man, light skin, bald, black hair, red clothes, white")
    given = await completed(drawing, replace(spec, prompt="a robot"))
    assert len(asked) == 2
    assert Image.open(io.BytesIO(given[0].pictures[0].image)).info["parameters"].startswith("a robot")


@pytest.mark.parametrize("size", [(1, 1), (300, 20), (33, 47), (640, 480)])
async def test_any_size_is_fitted_and_keeps_its_aspect_ratio(
    tiny_parts: PipelineParts, replicas: Replicas, size: tuple[int, int]
) -> None:
    width, height = size
    image = png(np.full((height, width, 3), 99, np.uint8))
    spec = replace(SPEC, image=image, max_width=48, max_height=32, num_inference_steps=2)
    picture = (await completed(pipeline(tiny_parts, replicas), spec))[0].pictures[0]
    assert picture.width <= 48
    assert picture.height <= 32
    assert Image.open(io.BytesIO(picture.image)).size == (picture.width, picture.height)
    assert abs(picture.width - picture.height * width / height) <= max(1, width / height)


async def test_what_is_not_a_picture_is_refused(tiny_parts: PipelineParts, replicas: Replicas) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await completed(pipeline(tiny_parts, replicas), replace(SPEC, image=b"no picture"))
    assert refused.value.field == "image"
