"""Rows with added conditions, as Stable Diffusion XL has them, against diffusers' pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLPipeline
from torch import Tensor, nn

from core.types import SamplerName
from deployments.engine.added import UnsupportedUNet, added_shapes
from deployments.engine.branch import BranchInput, ControlNetBranch
from deployments.engine.network import native_key
from deployments.engine.request import DenoiseRequest, noise_for
from deployments.engine.samplers import scheduler_for
from tests.deployments.engine.scenes import SCHEDULE, SHAPE, alone, engine, psnr_db, request, run, submitted
from tests.tiny_sdxl import POOLED_WIDTH, WIDTHS, small_sdxl_unet

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

with torch.random.fork_rng():
    torch.manual_seed(0)
    UNET = small_sdxl_unet().requires_grad_(False)
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
WHOLE: Sizes = ((8, 8), (0, 0), (8, 8))
SHAPES = {"text_embeds": (POOLED_WIDTH,), "time_ids": (6,)}


def conditioned(name: str = "r", *, seed: int = 0, sizes: Sizes = WHOLE, **changes: Any) -> DenoiseRequest:
    """A guided request with text of the model's width; ``sizes`` are original, crop and target."""
    pooled, negative = (noise_for(seed + offset, (POOLED_WIDTH,)) for offset in (3_000, 4_000))
    ids = torch.tensor([side for pair in sizes for side in pair], dtype=torch.float32)
    values: dict[str, Any] = {
        "prompt_embeds": noise_for(seed + 1_000, (5, sum(WIDTHS))),
        "negative_embeds": noise_for(seed + 2_000, (5, sum(WIDTHS))),
        "added_conditions": {"text_embeds": pooled, "time_ids": ids},
        "negative_added_conditions": {"text_embeds": negative},
    }
    return request(name, seed=seed, **{**values, **changes})


class Pooling(nn.Module):
    """What diffusers asks a second text encoder for when it is given embeddings."""

    config = SimpleNamespace(projection_dim=POOLED_WIDTH)
    dtype, device = torch.float32, torch.device("cpu")


def by_diffusers(wanted: DenoiseRequest, sizes: Sizes) -> Tensor:
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8),
        text_encoder=None,
        text_encoder_2=Pooling(),
        tokenizer=None,
        tokenizer_2=None,
        unet=UNET,
        scheduler=scheduler_for(wanted.sampler, SCHEDULE),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    assert wanted.negative_embeds is not None
    latents: Tensor = pipeline(
        prompt_embeds=wanted.prompt_embeds[None],
        negative_prompt_embeds=wanted.negative_embeds[None],
        pooled_prompt_embeds=wanted.added_conditions["text_embeds"][None],
        negative_pooled_prompt_embeds=wanted.negative_added_conditions["text_embeds"][None],
        original_size=sizes[0],
        crops_coords_top_left=sizes[1],
        target_size=sizes[2],
        height=SHAPE[1],
        width=SHAPE[2],
        num_inference_steps=wanted.num_inference_steps,
        guidance_scale=wanted.guidance_scale,
        generator=torch.Generator().manual_seed(wanted.seed),
        output_type="latent",
    ).images[0]
    return latents


def test_a_batch_of_different_conditions_equals_the_pipelines() -> None:
    """Prompts, sizes, crops, guidance, samplers and steps differ from row to row."""
    told: list[Sizes] = [WHOLE, ((1024, 768), (0, 0), (8, 8)), ((64, 64), (16, 32), (512, 8)), WHOLE]
    samplers = [SamplerName.DDIM, SamplerName.EULER, SamplerName.DPMPP_2M_KARRAS, SamplerName.EULER_A]
    wanted = [
        conditioned(
            str(seed),
            seed=seed,
            sizes=sizes,
            sampler=sampler,
            num_inference_steps=5 + seed,
            guidance_scale=2.0 + seed,
        )
        for seed, (sizes, sampler) in enumerate(zip(told, samplers, strict=True))
    ]
    shared = engine(UNET)
    heard = submitted(shared, *wanted)
    run(shared)
    for each, sizes in zip(wanted, told, strict=True):
        latents = heard[each.request_id].latents
        expected = by_diffusers(each, sizes)
        assert psnr_db(latents, expected) >= 45, each.request_id
        assert float((latents - expected).abs().max()) <= 1e-3


def test_the_sizes_that_a_row_is_told_matter() -> None:
    whole = alone(conditioned(), UNET)
    assert psnr_db(alone(conditioned(sizes=((64, 64), (16, 0), (8, 8))), UNET), whole) < 45


def test_warm_up_measures_a_unet_with_conditions() -> None:
    own = engine(UNET, max_rows=2)
    own.warm_up()
    key = native_key(UNET.config)
    assert dict(key.added_shapes) == SHAPES
    assert key == conditioned(prompt_embeds=torch.zeros(77, sum(WIDTHS))).key


def test_a_controlnet_is_told_the_conditions_of_its_rows() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        control = ControlNetModel.from_unet(UNET, conditioning_embedding_out_channels=(4, 8)).eval()
        for parameter in control.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    branches = {"edges": ControlNetBranch(control)}
    edges = BranchInput(name="edges", conditioning=noise_for(9, (3, 16, 16)))
    wanted = conditioned(branch=edges, num_inference_steps=2)
    shared = engine(UNET, branches=branches)
    heard = submitted(shared, wanted, conditioned("plain", seed=2))
    run(shared)
    assert psnr_db(heard["r"].latents, alone(wanted, UNET, branches=branches)) >= 60
    assert psnr_db(heard["plain"].latents, alone(conditioned("plain", seed=2), UNET)) >= 60
    assert psnr_db(heard["r"].latents, alone(conditioned(num_inference_steps=2), UNET)) < 45


@pytest.mark.parametrize("kind", ["text", "image", "text_image"])
def test_conditions_of_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedUNet, match=kind):
        added_shapes(SimpleNamespace(addition_embed_type=kind))
    assert added_shapes(SimpleNamespace()) == ()
