"""Stable Diffusion XL through the replica classes: the family follows from the model's folder."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from core.settings import AppSettings, DenoiserSettings, PipelineSettings, SafetySettings
from core.specs import TextToImageSpec
from core.types import Completed, SamplerName
from deployments.denoiser import Denoiser
from deployments.engine.request import DenoiseEvent, DenoiseRequest
from deployments.text_to_image import TextToImage
from tests.deployments.pipeline.sdxl.references import generator, psnr_db, reference
from tests.tiny_sdxl import build_tiny_sdxl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPEC = TextToImageSpec(
    request_id="r",
    prompt="red cat",
    negative_prompt="",
    num_inference_steps=4,
    guidance_scale=5.0,
    seed=3,
    num_images=1,
    width=32,
    height=32,
    sampler=SamplerName.EULER,
)


class LocalHandle:
    """A Serve handle of a replica in this process."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser

    def options(self, **_: Any) -> LocalHandle:
        return self

    @property
    def denoise(self) -> LocalHandle:
        return self

    def remote(self, request: DenoiseRequest) -> LocalStream:
        return LocalStream(self._denoiser.denoise(request))


class LocalStream:
    """What a handle's streaming call returns."""

    def __init__(self, events: AsyncGenerator[DenoiseEvent, None]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncGenerator[DenoiseEvent, None]:
        return self._events

    def cancel(self) -> None:
        """The stream has ended by the time that the tests call this."""


@pytest.mark.parametrize("said", ["model_index.json", "the configs"])
async def test_a_request_is_drawn_by_the_replicas(said: str, tmp_path: Path) -> None:
    folder = build_tiny_sdxl(tmp_path)
    expected = reference(StableDiffusionXLPipeline, folder, SPEC.sampler)(
        SPEC.prompt,
        width=32,
        height=32,
        num_inference_steps=SPEC.num_inference_steps,
        guidance_scale=SPEC.guidance_scale,
        generator=generator(SPEC.seed),
    ).images[0]
    if said == "the configs":
        # Some tools write no class there.
        (folder / "model_index.json").write_text('{"force_zeros_for_empty_prompt": true}')
    model_id = f"path:{folder}"
    denoiser = Denoiser(
        model_id, DenoiserSettings(precision="float32", num_threads=1, max_rows=2), use_gpu=False
    )
    settings = AppSettings(model=model_id, safety=SafetySettings(enabled=False))
    own = PipelineSettings(precision="float32", num_threads=1)
    drawing = TextToImage(LocalHandle(denoiser), None, settings, own)  # type: ignore[arg-type]
    try:
        events = [event async for event in drawing.generate(SPEC)]
    finally:
        denoiser.close()
    done = events[-1]
    assert isinstance(done, Completed)
    picture = np.asarray(Image.open(io.BytesIO(done.pictures[0].image)))
    assert psnr_db(picture, expected) > 45
