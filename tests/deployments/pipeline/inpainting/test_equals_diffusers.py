"""With the same seed, the whole pipeline paints what diffusers' inpainting pipeline paints."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image

from core.types import SamplerName
from deployments.engine.request import DenoiseEvent, DenoiseRequest, Done
from deployments.engine.samplers import NoiseSchedule, scheduler_for
from deployments.pipeline.inpainting.conditioning import conditioning_for
from deployments.pipeline.inpainting.pipeline import InpaintPipeline
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts
from tests.deployments.pipeline.inpainting.pictures import MASK, PICTURE, SPEC, painted, planning
from tests.replicas import Replicas
from weights import registry

# diffusers converts tensors in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class MeanInpaintPipeline(StableDiffusionInpaintPipeline):  # type: ignore[misc]
    """Takes the mean of the VAE's posterior, where diffusers draws a sample before it draws the noise."""

    def _encode_vae_image(self, image: torch.Tensor, generator: Any) -> torch.Tensor:
        latents: torch.Tensor = self.vae.encode(image).latent_dist.mode() * self.vae.config.scaling_factor
        return latents


@pytest.fixture(scope="module")
def nine_channels(tiny_family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family with a UNet made for inpainting."""
    folder = tmp_path_factory.mktemp("nine") / "family"
    shutil.copytree(tiny_family, folder)
    config = {**UNet2DConditionModel.load_config(folder / "unet"), "in_channels": 9}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return folder


@pytest.fixture
def nine_channel_replicas(nine_channels: Path) -> Iterator[Replicas]:
    started = Replicas(f"path:{nine_channels}", 1)
    yield started
    started.stop()


def by_diffusers(folder: Path, sampler: SamplerName, strength: float) -> torch.Tensor:
    reference = MeanInpaintPipeline.from_pretrained(folder, safety_checker=None)
    reference.set_progress_bar_config(disable=True)
    schedule = NoiseSchedule.from_config(registry.scheduler_config(f"path:{folder}"))
    reference.scheduler = scheduler_for(sampler, schedule)
    drawn: torch.Tensor = reference(
        SPEC.prompt,
        image=Image.fromarray(PICTURE),
        mask_image=Image.fromarray(MASK),
        height=32,
        width=32,
        strength=strength,
        negative_prompt=SPEC.negative_prompt,
        num_inference_steps=SPEC.num_inference_steps,
        guidance_scale=SPEC.guidance_scale,
        generator=torch.Generator().manual_seed(SPEC.seed),
        output_type="pt",
    ).images[0]
    return drawn.permute(1, 2, 0)


async def check(
    folder: Path, parts: PipelineParts, replicas: Replicas, sampler: SamplerName, strength: float
) -> None:
    latents: list[torch.Tensor] = []

    async def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        async for event in replicas.denoise(request):
            if isinstance(event, Done):
                latents.append(event.latents)
            yield event

    unet_channels = registry.load_unet(f"path:{folder}").config.in_channels
    pipeline = InpaintPipeline(parts, Painter(denoise), planning(conditioning_for(parts, unet_channels)))
    (picture,), _ = await painted(pipeline, replace(SPEC, sampler=sampler, strength=strength))
    expected = by_diffusers(folder, sampler, strength)
    vae = registry.load_vae(f"path:{folder}")
    with torch.inference_mode():
        decoded = vae.decode(latents[0][None] / vae.config.scaling_factor).sample[0]
    before_pasting = (decoded / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
    assert float((before_pasting - expected).abs().max()) <= 1e-3
    inside = np.repeat(MASK[..., None] > 0, 3, axis=2)
    off = picture.astype(int) - np.rint(expected.numpy() * 255)
    assert np.abs(off[inside]).max() <= 1
    assert np.array_equal(picture[~inside], PICTURE[~inside])


@pytest.mark.parametrize("sampler", [SamplerName.DDIM, SamplerName.EULER_A, SamplerName.DPMPP_2M])
@pytest.mark.parametrize("strength", [0.5, 1.0])
async def test_with_four_channels(
    tiny_family: Path, tiny_parts: PipelineParts, replicas: Replicas, sampler: SamplerName, strength: float
) -> None:
    await check(tiny_family, tiny_parts, replicas, sampler, strength)


@pytest.mark.parametrize("sampler", [SamplerName.DDIM, SamplerName.EULER_A, SamplerName.DPMPP_2M])
@pytest.mark.parametrize("strength", [0.5, 1.0])
async def test_with_nine_channels(
    nine_channels: Path,
    tiny_parts: PipelineParts,
    nine_channel_replicas: Replicas,
    sampler: SamplerName,
    strength: float,
) -> None:
    await check(nine_channels, tiny_parts, nine_channel_replicas, sampler, strength)
