"""With the same seed, every pipeline draws what diffusers' pipelines of Stable Diffusion XL draw."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from core.specs import Hires, ImageToImageSpec, Strategy, TextToImageSpec, UpscaleSpec
from core.types import SamplerName
from deployments.pipeline.image_to_image import ImageToImagePipeline
from deployments.pipeline.inpainting.conditioning import conditioning_for
from deployments.pipeline.inpainting.pipeline import InpaintPipeline
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.text_to_image import TextToImagePipeline
from deployments.pipeline.upscale import UpscalePipeline
from tests.deployments.pipeline.inpainting.pictures import MASK, PICTURE, planning, png
from tests.deployments.pipeline.inpainting.pictures import SPEC as INPAINT
from tests.deployments.pipeline.sdxl.references import generator, pictures, psnr_db, reference
from tests.replicas import Replicas
from tests.tiny_sdxl import small_sdxl_unet
from weights import registry

# diffusers converts tensors in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DRAWN = TextToImageSpec(
    request_id="r",
    prompt="red hair man",
    negative_prompt="dog",
    num_inference_steps=6,
    guidance_scale=5.0,
    seed=7,
    num_images=1,
    width=32,
    height=32,
    sampler=SamplerName.DDIM,
)
RESTYLED = ImageToImageSpec(
    request_id="r",
    prompt="red hair man",
    negative_prompt="dog",
    num_inference_steps=10,
    guidance_scale=5.0,
    seed=7,
    num_images=1,
    sampler=SamplerName.DDIM,
    image=png(PICTURE),
    strength=0.6,
    strategy=Strategy.RESTYLE,
    max_width=32,
    max_height=32,
)


def drawn_by_diffusers(folder: Path, spec: TextToImageSpec) -> Any:
    drawing = reference(StableDiffusionXLPipeline, folder, spec.sampler)
    return drawing(
        spec.prompt,
        negative_prompt=spec.negative_prompt or None,
        width=spec.width,
        height=spec.height,
        clip_skip=spec.clip_skip or None,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=generator(spec.seed),
    ).images[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_prompt": ""},
        {"negative_prompt": " "},
        {"guidance_scale": 1.0},
        {"width": 64, "height": 32},
        {"clip_skip": 1},
        {"sampler": SamplerName.EULER, "prompt": ""},
    ],
    ids=["plain", "no negative", "blank negative", "no guidance", "wide", "clip skip", "empty prompt"],
)
async def test_text_to_image(
    parts: PipelineParts, replicas: Replicas, sdxl: Path, changes: dict[str, Any]
) -> None:
    spec = replace(DRAWN, **changes)
    (picture,) = await pictures(TextToImagePipeline(parts, Painter(replicas.denoise)), spec)
    assert picture.shape == (spec.height, spec.width, 3)
    told = replace(spec, negative_prompt=spec.negative_prompt.strip())
    assert psnr_db(picture, drawn_by_diffusers(sdxl, told)) > 45


async def test_a_mixed_batch(parts: PipelineParts, replicas: Replicas, sdxl: Path) -> None:
    """Prompts, guidance, samplers, steps and sizes differ; those of one size share their batch."""
    specs = [
        DRAWN,
        replace(DRAWN, request_id="1", prompt="blue cat", guidance_scale=1.0, seed=1),
        replace(DRAWN, request_id="2", negative_prompt="", sampler=SamplerName.DPMPP_2M_KARRAS, seed=2),
        replace(DRAWN, request_id="3", sampler=SamplerName.EULER_A, num_inference_steps=9, seed=3),
        replace(DRAWN, request_id="4", width=48, guidance_scale=2.5, seed=4),
    ]
    drawing = TextToImagePipeline(parts, Painter(replicas.denoise))
    drawn = await asyncio.gather(*(pictures(drawing, spec) for spec in specs))
    stats = replicas.engines[0].stats()
    assert stats.num_row_steps > 2 * stats.num_steps
    for spec, (picture,) in zip(specs, drawn, strict=True):
        assert psnr_db(picture, drawn_by_diffusers(sdxl, spec)) > 45, spec.request_id


@pytest.mark.parametrize("sampler", [SamplerName.DDIM, SamplerName.DPMPP_2M])
@pytest.mark.parametrize("strength", [0.4, 1.0])
async def test_image_to_image(
    parts: PipelineParts, replicas: Replicas, sdxl: Path, strength: float, sampler: SamplerName
) -> None:
    spec = replace(RESTYLED, strength=strength, sampler=sampler)
    drawing = ImageToImagePipeline(parts, Painter(replicas.denoise), describe=None, structure=False)
    (picture,) = await pictures(drawing, spec)
    latents = await parts.encoder.encode(PICTURE)
    # Given latents, diffusers draws nothing before the noise either; their size is not the picture's.
    expected = reference(StableDiffusionXLImg2ImgPipeline, sdxl, sampler)(
        spec.prompt,
        image=latents[None],
        original_size=(32, 32),
        target_size=(32, 32),
        strength=strength,
        negative_prompt=spec.negative_prompt,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=generator(spec.seed),
    ).images[0]
    assert psnr_db(picture, expected) > 45


class MeanInpaintPipeline(StableDiffusionXLInpaintPipeline):  # type: ignore[misc]
    """Takes the mean of the VAE's posterior, where diffusers draws a sample before it draws the noise."""

    def _encode_vae_image(self, image: torch.Tensor, generator: Any) -> torch.Tensor:
        latents: torch.Tensor = self.vae.encode(image).latent_dist.mode() * self.vae.config.scaling_factor
        return latents


@pytest.fixture(scope="module")
def nine_channels(sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family with a UNet made for inpainting."""
    folder = tmp_path_factory.mktemp("nine") / "family"
    shutil.copytree(sdxl, folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        small_sdxl_unet(9).save_pretrained(folder / "unet")
    return folder


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("channels", [4, 9])
async def test_inpainting(
    parts: PipelineParts, sdxl: Path, nine_channels: Path, channels: int, strength: float
) -> None:
    folder = sdxl if channels == 4 else nine_channels
    started = Replicas(f"path:{folder}", 1)
    try:
        spec = replace(INPAINT, strength=strength, sampler=SamplerName.EULER_A)
        unet_channels = registry.load_unet(f"path:{folder}").config.in_channels
        conditioning = conditioning_for(parts, unet_channels)
        drawing = InpaintPipeline(parts, Painter(started.denoise), planning(conditioning))
        (picture,) = await pictures(drawing, spec)
    finally:
        started.stop()
    expected = reference(MeanInpaintPipeline, folder, spec.sampler)(
        spec.prompt,
        image=Image.fromarray(PICTURE),
        mask_image=Image.fromarray(MASK),
        height=32,
        width=32,
        strength=strength,
        negative_prompt=spec.negative_prompt,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=generator(spec.seed),
    ).images[0]
    inside = np.repeat(MASK[..., None] > 0, 3, axis=2)
    assert psnr_db(picture[inside], np.asarray(expected)[inside]) > 45
    assert np.array_equal(picture[~inside], PICTURE[~inside])


async def test_preserving_draws_the_picture_itself_where_nothing_is_asked(
    parts: PipelineParts, replicas: Replicas
) -> None:
    spec = replace(RESTYLED, strategy=Strategy.PRESERVE, guidance_scale=1.0, num_inference_steps=40)
    spec = replace(spec, prompt="red hair", negative_prompt="red hair")
    drawing = ImageToImagePipeline(parts, Painter(replicas.denoise), describe=None, structure=False)
    (picture,) = await pictures(drawing, spec)
    decoded = await parts.decoder.decode(await parts.encoder.encode(PICTURE))
    assert psnr_db(picture, decoded) > 30


async def test_hires_and_upscaling_go_over_tiles(parts: PipelineParts, replicas: Replicas) -> None:
    spec = replace(DRAWN, hires=Hires(scale=2.0, strength=0.4))
    (picture,) = await pictures(TextToImagePipeline(parts, Painter(replicas.denoise)), spec)
    assert picture.shape == (64, 64, 3)
    larger = UpscaleSpec(
        request_id="r",
        prompt="",
        negative_prompt="",
        num_inference_steps=4,
        guidance_scale=1.0,
        seed=3,
        num_images=1,
        sampler=SamplerName.DDIM,
        image=png(PICTURE),
        scale=2,
        strength=0.5,
    )
    (picture,) = await pictures(UpscalePipeline(parts, Painter(replicas.denoise)), larger)
    assert picture.shape == (64, 64, 3)
