from __future__ import annotations

import asyncio

import numpy as np
import torch

from deployments.pipeline.parts import PipelineParts
from weights import registry

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)


async def test_latents_are_the_mean_of_the_posterior(tiny_parts: PipelineParts, tiny_model_id: str) -> None:
    vae = registry.load_vae(tiny_model_id)
    scaled = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(scaled).latent_dist.mean * vae.config.scaling_factor
    latents = await asyncio.gather(*(tiny_parts.encoder.encode(picture) for picture in PICTURES))
    torch.testing.assert_close(torch.stack(latents), expected, rtol=1e-4, atol=1e-5)


async def test_sizes_may_be_mixed(tiny_parts: PipelineParts) -> None:
    wide, small = PICTURES[0], PICTURES[0, :16, :16]
    latents = await asyncio.gather(tiny_parts.encoder.encode(wide), tiny_parts.encoder.encode(small))
    factor = tiny_parts.encoder.factor
    assert [tuple(each.shape[1:]) for each in latents] == [
        (32 // factor, 48 // factor),
        (16 // factor, 16 // factor),
    ]
