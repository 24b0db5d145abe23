"""The diffusers pipelines that the engine is held against, over one tiny model with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from core.types import SamplerName
from deployments.engine.request import DenoiseRequest
from deployments.engine.samplers import NoiseSchedule, scheduler_for
from tests.deployments.engine.scenes import SHAPE

ZERO_SNR = NoiseSchedule(
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", steps_offset=1
)
_VAE = AutoencoderKL(
    block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8, scaling_factor=1.0
)


def pipeline_of(kind: Any, unet: Any, name: SamplerName, schedule: NoiseSchedule, **parts: Any) -> Any:
    """A pipeline without text encoder whose pictures are as large as its latents."""
    pipeline = kind(
        vae=parts.pop("vae", _VAE),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler_for(name, schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Any, wanted: DenoiseRequest, **inputs: Any) -> Tensor:
    """The latents that the pipeline makes of the request."""
    negative = None if wanted.negative_embeds is None else wanted.negative_embeds[None]
    latents: Tensor = pipeline(
        prompt_embeds=wanted.prompt_embeds[None],
        negative_prompt_embeds=negative,
        num_inference_steps=wanted.num_inference_steps,
        guidance_scale=wanted.guidance_scale,
        generator=torch.Generator().manual_seed(wanted.seed),
        output_type="latent",
        **inputs,
    ).images[0]
    return latents


def drawn_from(source: Tensor, pipeline: Any, wanted: DenoiseRequest, **inputs: Any) -> Tensor:
    """The same of a pipeline that starts from ``source`` latents, at the request's start step."""
    strength = 1 - wanted.start_step / wanted.num_inference_steps
    return drawn(pipeline, wanted, image=source[None], strength=strength, **inputs)


def square_mask() -> Tensor:
    """1 in a rectangle off the centre."""
    mask = torch.zeros(1, *SHAPE[1:])
    mask[:, 2:6, 1:5] = 1.0
    return mask
