"""A Denoiser with everything that may lie beside a model: a ControlNet, a UNet made for inpainting."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from PIL import Image

from core.settings import DenoiserSettings
from core.specs import ImageToImageSpec, Strategy
from core.types import Completed
from deployments.denoiser import Denoiser
from deployments.engine.request import Done, Failed, noise_for
from deployments.pipeline import networks
from deployments.pipeline.edges import canny
from deployments.pipeline.image_to_image import ImageToImagePipeline
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts
from tests.deployments.pipeline.test_image_to_image import SPEC, png, psnr_db
from tests.deployments.test_denoiser import request
from weights import registry

# diffusers converts tensors in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SETTINGS = DenoiserSettings(precision="float32", num_threads=1, max_rows=2)
PICTURE = np.full((32, 32, 3), 30, np.uint8)
PICTURE[8:24, 8:24] = 220


@pytest.fixture(scope="module")
def complete(tiny_family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family with a ControlNet that has something to say, and a UNet of nine channels."""
    folder = tmp_path_factory.mktemp("complete") / "model"
    folder.mkdir()
    for part in tiny_family.iterdir():
        (folder / part.name).symlink_to(part)
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_pretrained(tiny_family, subfolder="unet")
    # The picture is brought to the size of the latents, a quarter of it.
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8))
    for zeros in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(zeros.weight, std=0.5)
    torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=200.0)
    controlnet.save_pretrained(folder / "controlnet")
    nine = UNet2DConditionModel.from_config({**unet.config, "in_channels": 9})
    nine.save_pretrained(folder / "inpaint" / "unet")
    return folder


def test_what_a_model_lacks_is_not_there(tiny_model_id: str) -> None:
    assert not networks.has_controlnet(tiny_model_id)
    assert not networks.has_inpainting_unet(tiny_model_id)
    assert networks.inpainting_channels(tiny_model_id) == 4
    assert networks.load_branches(tiny_model_id) == {}


def test_what_lies_beside_a_model_is_found(complete: Path) -> None:
    model_id = f"path:{complete}"
    assert networks.has_controlnet(model_id)
    assert networks.inpainting_channels(model_id) == 9
    for dtype in (torch.float32, torch.bfloat16):
        (branch,) = networks.load_branches(model_id, dtype).values()
        assert {parameter.dtype for parameter in branch.parameters()} == {dtype}
    assert set(networks.load_branches(model_id)) == {networks.STRUCTURE_BRANCH}


async def test_structure_gives_the_picture_of_the_diffusers_pipeline(
    complete: Path, tiny_parts: PipelineParts
) -> None:
    denoiser = Denoiser(f"path:{complete}", SETTINGS, use_gpu=False)
    pipeline = ImageToImagePipeline(tiny_parts, Painter(denoiser.denoise), describe=None, structure=True)
    spec: ImageToImageSpec = replace(SPEC, strategy=Strategy.STRUCTURE, strength=1.0, image=png(PICTURE))
    events = [event async for event in pipeline.generate(spec)]
    denoiser.close()
    assert isinstance(events[-1], Completed)
    drawn = np.asarray(Image.open(io.BytesIO(events[-1].pictures[0].image)))

    controlnet = ControlNetModel.from_pretrained(complete / "controlnet")
    reference = StableDiffusionControlNetPipeline.from_pretrained(
        complete, controlnet=controlnet, safety_checker=None
    )
    reference.set_progress_bar_config(disable=True)

    def drawn_by_diffusers(edges: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Image.Image:
        image: Image.Image = reference(
            spec.prompt,
            image=Image.fromarray((edges * 255).astype(np.uint8)).convert("RGB"),
            negative_prompt=spec.negative_prompt,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            generator=torch.Generator().manual_seed(spec.seed),
        ).images[0]
        return image

    edges = canny(PICTURE)
    told = psnr_db(drawn, np.asarray(drawn_by_diffusers(edges)))
    untold = psnr_db(drawn, np.asarray(drawn_by_diffusers(np.zeros_like(edges))))
    assert told > 45
    assert told > untold + 6


async def test_the_inpainting_denoiser_wants_the_mask_among_its_channels(
    complete: Path, tiny_model_id: str
) -> None:
    denoiser = Denoiser(f"path:{complete}", SETTINGS, use_gpu=False, inpainting=True)
    shape = registry.load_unet(tiny_model_id).config.sample_size
    extra = noise_for(1, (5, shape, shape))
    ends = []
    for asked in (replace(request(), extra_channels=extra), request()):
        events = [event async for event in denoiser.denoise(asked)]
        ends.append(events[-1])
    denoiser.close()
    assert isinstance(ends[0], Done)
    assert isinstance(ends[1], Failed)
    assert getattr(ends[1].error, "field", None) == "extra_channels"
