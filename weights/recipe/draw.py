"""Draws pictures with diffusers' own pipeline, the reference that the service is measured against.

Knows prompts, seeds and batches; nothing about what the pictures should show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from tqdm import tqdm

from weights.recipe.architecture import RESOLUTION

SAMPLERS: Final[dict[str, Any]] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}


@dataclass(frozen=True)
class Drawer:
    """A float32 pipeline and how to use it: picture i starts from seed + i, whatever the batch size.

    With dtype bfloat16 the UNet's layers compute in it; latents and decoding stay float32.
    """

    pipeline: StableDiffusionPipeline
    sampler: str
    steps: int
    guidance: float
    seed: int = 0
    batch: int = 8
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        config = self.pipeline.scheduler.config
        self.pipeline.scheduler = SAMPLERS[self.sampler].from_config(config)
        self.pipeline.unet.to(memory_format=torch.channels_last)
        self.vae.to(memory_format=torch.channels_last)
        self.pipeline.set_progress_bar_config(disable=True)

    @property
    def vae(self) -> AutoencoderKL:
        """The pipeline's autoencoder."""
        return self.pipeline.vae

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str]) -> NDArray[np.uint8]:
        """Pictures [N, 128, 128, 3] of N prompts, with a progress bar."""
        parts = []
        with tqdm(total=len(prompts), unit="picture", mininterval=5) as bar:
            for start in range(0, len(prompts), self.batch):
                texts = list(prompts[start : start + self.batch])
                parts.append(self._draw_batch(texts, self.seed + start))
                bar.update(len(texts))
        return np.concatenate(parts)

    def _draw_batch(self, prompts: list[str], seed: int) -> NDArray[np.uint8]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            latents = self.pipeline(
                prompts,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=[torch.Generator().manual_seed(seed + row) for row in range(len(prompts))],
                height=RESOLUTION,
                width=RESOLUTION,
                output_type="latent",
            ).images
        decoded = self.vae.decode(latents.float() / self.vae.config.scaling_factor).sample
        pixels: NDArray[np.uint8] = (
            decoded.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
        )
        return pixels
