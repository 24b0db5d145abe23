"""Latents to pixels through the VAE. Knows tensors and precision; nothing of files and requests."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from core.errors import GenerationFailed
from core.settings import Precision
from core.telemetry import log, logger
from deployments.engine.transfer import OwnStream
from deployments.pipeline.batcher import Batcher

_LOG = logger(__name__)
Pixels = npt.NDArray[np.uint8]

# A lower precision must be this much faster than float32, and differ by no more than this, to be taken.
_MIN_SPEEDUP = 1.15
_MIN_PSNR_DB = 40.0
_LEARN = 0.2
# Of all pictures in one forward pass: four of 512 × 512, one of 1024 × 1024, which take gigabytes.
_MAX_PIXELS = 1024 * 1024


class PictureDecoder:
    """The VAE decoder of one replica; pictures that wait and have one size share a forward pass.

    ``sample_size`` is the side of the latents that precision is measured on. With ``upcast`` it is never
    run in float16: the values inside some autoencoders grow beyond that, and pictures turn black.
    """

    def __init__(
        self,
        vae: Any,
        *,
        precision: Precision = "float32",
        device: str = "cpu",
        max_batch: int = 8,
        sample_size: int = 32,
        upcast: bool = False,
    ) -> None:
        self._scaling_factor = float(vae.config.scaling_factor)
        self.latent_channels = int(vae.config.latent_channels)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._device = torch.device(device)
        # The encoder half is not needed here.
        layers = [layer for layer in (vae.post_quant_conv, vae.decoder) if layer is not None]
        exact = torch.nn.Sequential(*layers).to(device)
        sample = torch.randn(
            (1, self.latent_channels, sample_size, sample_size), generator=torch.Generator().manual_seed(0)
        )
        self._upcast = upcast
        self._layers, self.dtype, duration_s = self._chosen(exact, precision, sample)
        self._stream = OwnStream(self._device)
        self._pixel_s = duration_s / (sample_size * self.factor) ** 2
        self._batcher: Batcher[torch.Tensor, Pixels] = Batcher(
            self.decode_batch, max_batch, key=lambda latents: tuple(latents.shape), name="decoder"
        )

    async def decode(self, latents: torch.Tensor) -> Pixels:
        """``latents`` ``[channels, h, w]`` as pixels ``[height, width, 3]``."""
        return await self._batcher.submit(latents)

    def estimate_s(self, width: int, height: int) -> float:
        """How long a picture of this size takes to decode alone."""
        return float(self._pixel_s * width * height)

    @torch.inference_mode()
    def decode_batch(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        """Decode latents of one shape. Raises :class:`GenerationFailed` when one gives no picture."""
        with self._stream():
            return self._decoded(latents)

    def _decoded(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        began = time.perf_counter()
        at_once = pictures_at_once(latents[0].shape[-2:].numel() * self.factor**2)
        pictures = torch.cat(
            [
                self._forward(self._layers, torch.stack(list(latents[first : first + at_once])), self.dtype)
                for first in range(0, len(latents), at_once)
            ]
        )
        if not torch.isfinite(pictures).all():
            raise GenerationFailed("The picture could not be decoded: its values are not finite.")
        pixels = (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).mul(255).round().to(torch.uint8)
        arrays = list(pixels.cpu().contiguous().numpy())
        per_pixel = (time.perf_counter() - began) / pixels[..., 0].numel()
        self._pixel_s += _LEARN * (per_pixel - self._pixel_s)
        return arrays

    def close(self) -> None:
        self._batcher.close()

    def _forward(self, layers: torch.nn.Module, latents: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        scaled = (latents / self._scaling_factor).to(
            self._device, dtype=dtype, memory_format=torch.channels_last
        )
        decoded: torch.Tensor = layers(scaled)
        return decoded.float()

    def _chosen(
        self, exact: torch.nn.Module, precision: Precision, sample: torch.Tensor
    ) -> tuple[torch.nn.Module, torch.dtype, float]:
        """The layers to use, their dtype, and how long they take for ``sample``."""
        if precision != "auto":
            dtype: torch.dtype = getattr(torch, precision)
            if self._upcast and dtype == torch.float16:
                dtype = torch.float32
            layers, _, duration_s = self._timed(exact, dtype, sample)
            return layers, dtype, duration_s
        exact, exact_picture, exact_s = self._timed(exact, torch.float32, sample)
        lower = torch.float16 if self._device.type == "cuda" and not self._upcast else torch.bfloat16
        rough, rough_picture, rough_s = self._timed(exact, lower, sample)
        psnr_db, speedup = _psnr_db(exact_picture, rough_picture), exact_s / rough_s
        log(
            _LOG, logging.INFO, "vae precision measured", speedup=round(speedup, 2), psnr_db=round(psnr_db, 1)
        )
        if speedup >= _MIN_SPEEDUP and psnr_db >= _MIN_PSNR_DB:
            return rough, lower, rough_s
        return exact, torch.float32, exact_s

    @torch.inference_mode()
    def _timed(
        self, exact: torch.nn.Module, dtype: torch.dtype, sample: torch.Tensor
    ) -> tuple[torch.nn.Module, torch.Tensor, float]:
        """A copy of ``exact`` in ``dtype``, the sample decoded, and the best of three durations."""
        layers = copy.deepcopy(exact).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        durations = []
        picture = self._forward(layers, sample, dtype).cpu()
        for _ in range(3):
            began = time.perf_counter()
            picture = self._forward(layers, sample, dtype).cpu()
            durations.append(time.perf_counter() - began)
        return layers, picture, min(durations)


def pictures_at_once(num_pixels: int) -> int:
    """How many pictures of so many pixels go through an autoencoder together: its memory grows with both."""
    return max(1, _MAX_PIXELS // num_pixels)


def _psnr_db(exact: torch.Tensor, rough: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [-1, 1]; minus infinity when ``rough`` is not finite."""
    error = (exact.clamp(-1, 1) - rough.clamp(-1, 1)).square().mean()
    if not torch.isfinite(error):
        return float("-inf")
    return float(10 * torch.log10(4 / error.clamp(min=1e-12)))
