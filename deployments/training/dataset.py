"""Photos and class pictures as cached latents, and which of them a step sees. Knows files and seeds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Pictures per call of the VAE: at 512 x 512 more would not fit beside a UNet in training.
_MAX_BATCH = 4


@torch.inference_mode()
def latents_of(vae: Any, pictures: Sequence[bytes], size: int, *, flip: bool, device: torch.device) -> Tensor:
    """Scaled latents ``[pictures, channels, h, w]``, CPU float32, of square picture files.

    Each is encoded once, at ``size`` pixels, as the mean of the posterior; with ``flip`` its mirror image
    follows it.
    """
    pixels = np.stack([_square(picture, size) for picture in pictures])
    if flip:
        pixels = np.stack([pixels, pixels[:, :, ::-1]], axis=1).reshape(-1, size, size, 3)
    parts = []
    for start in range(0, len(pixels), _MAX_BATCH):
        part = torch.from_numpy(pixels[start : start + _MAX_BATCH]).to(device).permute(0, 3, 1, 2)
        scaled = (part.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        parts.append(vae.encode(scaled).latent_dist.mean.float().cpu() * vae.config.scaling_factor)
    return torch.cat(parts).clone()


def _square(picture: bytes, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(picture)) as opened:
        shown = opened.convert("RGB")
    if shown.size != (size, size):
        shown = shown.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(shown)


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One batch: latents ``[batch, channels, h, w]``, noise like them, timesteps ``[batch]``.

    The first ``num_photos`` rows are photos, the others class pictures.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    num_photos: int


class Draws:
    """What each micro-step is trained on: a function of seed and number alone, so that training resumes.

    ``photos`` and ``others`` (class pictures, or None) are latents; every epoch goes through all of them
    in an order of its own. Timesteps are spread evenly over ``num_timesteps``: one from each of as many
    equal shares as there are photos in the batch, which lowers the variance of a step at no cost.
    """

    def __init__(
        self, photos: Tensor, others: Tensor | None, batch_size: int, num_timesteps: int, seed: int
    ) -> None:
        self._photos, self._others = photos, others
        self._batch_size, self._num_timesteps, self._seed = batch_size, num_timesteps, seed

    def __getitem__(self, number: int) -> Draw:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        parts = [self._photos[self._chosen(len(self._photos), number)]]
        if self._others is not None:
            parts.append(self._others[self._chosen(len(self._others), number)])
        latents = torch.cat(parts)
        noise = torch.randn(latents.shape, generator=generator)
        shares = torch.arange(self._batch_size).repeat(len(parts))
        spread = (shares + torch.rand(len(latents), generator=generator)) / self._batch_size
        timesteps = (spread * self._num_timesteps).long().clamp_max(self._num_timesteps - 1)
        return Draw(latents, noise, timesteps, self._batch_size)

    def _chosen(self, num: int, number: int) -> list[int]:
        """Indices of the pictures of a batch: the next ones of an endless row of shuffled epochs."""
        places = range(number * self._batch_size, (number + 1) * self._batch_size)
        return [self._shuffled(num, place // num)[place % num] for place in places]

    def _shuffled(self, num: int, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed * 7_919 + epoch)
        return torch.randperm(num, generator=generator).tolist()
