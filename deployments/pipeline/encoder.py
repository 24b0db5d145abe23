"""Pixels to latents through the VAE. Knows tensors; nothing of files and requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deployments.engine.transfer import OwnStream
from deployments.pipeline.batcher import Batcher
from deployments.pipeline.decoder import pictures_at_once

Pixels = npt.NDArray[np.uint8]


class PictureEncoder:
    """The VAE encoder of one replica, float32; pictures that wait and have one size share a forward pass.

    Latents are the mean of the posterior: a sample adds nothing but noise, which the seed would have to
    pay for.
    """

    def __init__(self, vae: Any, *, device: str = "cpu", max_batch: int = 8) -> None:
        self._scaling_factor = float(vae.config.scaling_factor)
        self.latent_channels = int(vae.config.latent_channels)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._device = torch.device(device)
        # The decoder half is not needed here.
        layers = [layer for layer in (vae.encoder, vae.quant_conv) if layer is not None]
        self._layers = torch.nn.Sequential(*layers).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._stream = OwnStream(self._device)
        self._batcher: Batcher[Pixels, torch.Tensor] = Batcher(
            self.encode_batch, max_batch, key=lambda pixels: tuple(pixels.shape), name="encoder"
        )

    async def encode(self, pixels: Pixels) -> torch.Tensor:
        """``pixels`` ``[height, width, 3]``, sides multiples of ``factor``, as latents ``[c, h, w]``."""
        return await self._batcher.submit(pixels)

    @torch.inference_mode()
    def encode_batch(self, pictures: Sequence[Pixels]) -> list[torch.Tensor]:
        """Latents, CPU float32, of pictures of one size."""
        with self._stream():
            return self._encoded(pictures)

    def _encoded(self, pictures: Sequence[Pixels]) -> list[torch.Tensor]:
        stacked = torch.from_numpy(np.stack(pictures)).to(self._device).permute(0, 3, 1, 2)
        scaled = (stacked.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        at_once = pictures_at_once(scaled.shape[-2:].numel())
        parts = [self._layers(part)[:, : self.latent_channels] for part in scaled.split(at_once)]
        mean = torch.cat(parts)
        # Without inference mode's mark, so that the engine may do with them what it likes.
        return [latents.clone() for latents in (mean * self._scaling_factor).cpu().unbind()]

    def close(self) -> None:
        self._batcher.close()
