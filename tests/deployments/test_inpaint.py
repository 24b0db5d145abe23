from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import NotFound
from core.settings import AppSettings, PipelineSettings, SafetySettings, StoreSettings
from core.specs import AdapterUse, Box, InpaintMode, InpaintSpec, Task
from core.types import Completed, SamplerName
from deployments.denoiser import denoiser_app
from deployments.engine import request as engine
from deployments.inpaint import Inpaint, inpaint_app
from deployments.perception import perception_app
from store.blobs import Blobs
from store.keys import adapter_folder
from tests.adapter_files import put, random_layers
from tests.fakes import FakeDenoiserHandle, FakePerception, FakePerceptionHandle
from tests.powerpaint_files import build_v1_release
from tests.tiny_family import LATENT_SIZE, build_tiny_family
from weights import registry
from weights.adapters import AdapterWeights

PICTURE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
DONE = engine.Done("r", torch.zeros(4, LATENT_SIZE, LATENT_SIZE), 4, 0.0, 1.0)
SCRIPT: list[engine.DenoiseEvent] = [engine.Accepted("r", 1.0), DONE]


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, "PNG")
    return out.getvalue()


SPEC = InpaintSpec(
    request_id="r",
    prompt="red hair",
    negative_prompt="",
    num_inference_steps=4,
    guidance_scale=1.0,
    seed=0,
    num_images=1,
    sampler=SamplerName.EULER,
    image=png(),
    mode=InpaintMode.ADD,
    box=Box(left=8, top=8, width=8, height=8),
    mask_grow=0,
    mask_feather=0,
)


def replica(handle: Any, model_id: str, inpaint_denoiser: Any = None, blobs: str | None = None) -> Inpaint:
    settings = AppSettings(
        model=model_id, safety=SafetySettings(enabled=False), store=StoreSettings(blobs=blobs)
    )
    own = PipelineSettings(precision="float32", num_threads=1)
    perception: Any = FakePerceptionHandle(FakePerception())
    return Inpaint(handle, perception, settings, own, inpaint_denoiser)


def with_inpainting_unet(family: Path, model: Path) -> Path:
    """``family`` beside a model with the part; which one does not matter, since its Denoiser is a fake."""
    model.mkdir()
    for part in family.iterdir():
        (model / part.name).symlink_to(part)
    (model / "inpaint").symlink_to(family)
    return model


async def test_what_is_outside_the_box_stays_bit_for_bit(tiny_model_id: str) -> None:
    handle = FakeDenoiserHandle(SCRIPT)
    events = [event async for event in replica(handle, tiny_model_id).generate(SPEC)]
    assert isinstance(events[-1], Completed)
    painted = np.asarray(Image.open(io.BytesIO(events[-1].pictures[0].image)))
    outside = np.ones((32, 32), bool)
    outside[8:16, 8:16] = False
    np.testing.assert_array_equal(painted[outside], PICTURE[outside])
    assert (painted[~outside] != PICTURE[~outside]).any()
    (request,) = handle.scripted.requests
    assert request.mask is not None
    assert request.extra_channels is None


async def test_a_unet_made_for_inpainting_gets_the_requests_that_show_it_the_mask(
    tiny_family: Path, tmp_path: Path
) -> None:
    model = with_inpainting_unet(tiny_family, tmp_path / "model")
    ordinary, inpainting = FakeDenoiserHandle(SCRIPT), FakeDenoiserHandle(SCRIPT)
    painting = replica(ordinary, f"path:{model}", inpainting)
    events = [event async for event in painting.generate(SPEC)]
    assert isinstance(events[-1], Completed)
    assert not ordinary.scripted.requests
    (request,) = inpainting.scripted.requests
    assert request.mask is None
    assert request.extra_channels is not None
    assert request.extra_channels.shape == (5, LATENT_SIZE, LATENT_SIZE)


async def test_learned_tokens_forget_adapters_too(tmp_path: Path) -> None:
    family = build_tiny_family(tmp_path / "family")
    build_v1_release(family / "powerpaint", family)
    blobs = Blobs(f"file://{tmp_path / 'blobs'}")
    _, encoder = registry.load_text(f"path:{family}")
    put(blobs, "adp_1", AdapterWeights({}, random_layers(encoder, 0, of=lambda path: "q_proj" in path)))
    handle = FakeDenoiserHandle(SCRIPT, SCRIPT)
    painting = replica(handle, f"path:{family}", handle, f"file://{tmp_path / 'blobs'}")
    use = AdapterUse(adapter_id="adp_1", weight=1.0, sha256="", has_text_encoder=True)
    plain = replace(SPEC, task=Task.TEXT_GUIDED)
    for spec in (plain, replace(plain, adapters=(use,))):
        assert [type(event) async for event in painting.generate(spec)][-1] is Completed
    one, other = handle.scripted.requests
    assert not torch.allclose(one.prompt_embeds, other.prompt_embeds, atol=1e-3)
    assert painting._tasks is not None
    learned = painting._tasks._prompts._cache
    num_cached = len(learned)
    blobs.delete(adapter_folder("adp_1"))
    await painting.forget_adapter("adp_1")
    # What was encoded without it stays.
    assert 0 < len(learned) < num_cached
    with pytest.raises(NotFound):
        await anext(painting.generate(replace(plain, adapters=(use,))))


def test_the_application_has_its_own_share_and_name() -> None:
    settings = AppSettings(use_gpu=True)
    application = inpaint_app(settings, denoiser_app(settings), perception_app(settings), None)
    deployment = application._bound_deployment
    assert deployment.name == "Inpaint"
    assert deployment.ray_actor_options is not None
    assert deployment.ray_actor_options["num_gpus"] == settings.inpaint.gpu_share


def test_the_denoiser_of_inpainting_unets_is_a_deployment_of_its_own() -> None:
    settings = AppSettings()
    names = [denoiser_app(settings, inpainting=each)._bound_deployment.name for each in (False, True)]
    assert names == ["Denoiser", "InpaintDenoiser"]
