"""The loss of a step: what the UNet is to predict, and how much each timestep counts."""

from __future__ import annotations

import torch
from torch import Tensor


class Objective:
    """Epsilon or v-prediction (Salimans & Ho 2022) with min-SNR-gamma weights (Hang et al. 2023).

    For v-prediction the weights stay 1 on the noisy side, where the published ones fall to 0 with the SNR:
    a schedule with zero terminal SNR decides there which colours a picture has.
    ``alphas_cumprod`` ``[timesteps]`` is that of a diffusers scheduler.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str, gamma: float) -> None:
        self._prediction_type = prediction_type
        alphas = alphas_cumprod.double()
        self._signal, self._spread = alphas.sqrt().float(), (1 - alphas).sqrt().float()
        snr = alphas / (1 - alphas).clamp_min(1e-12)
        if self._prediction_type == "v_prediction":
            weights = (gamma / (snr + 1)).clamp_max(1)
        else:
            weights = snr.clamp_max(gamma) / snr.clamp_min(1e-12)
        self.weights = weights.float()

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents ``[batch, channels, h, w]`` as they are at ``timesteps`` ``[batch]``."""
        return self._at(self._signal, timesteps) * latents + self._at(self._spread, timesteps) * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet is to predict, of the same shape."""
        if self._prediction_type == "epsilon":
            return noise
        return self._at(self._signal, timesteps) * noise - self._at(self._spread, timesteps) * latents

    def loss(self, predicted: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """The weighted squared error of each row, ``[batch]``, float32."""
        errors = (predicted.float() - target.float()).square().flatten(1).mean(1)
        return errors * self.weights.to(errors.device)[timesteps]

    @staticmethod
    def _at(values: Tensor, timesteps: Tensor) -> Tensor:
        return values.to(timesteps.device)[timesteps][:, None, None, None]


def weighted_mean(losses: Tensor, num_photos: int, prior_weight: float) -> Tensor:
    """DreamBooth's loss: that of the photos, and that of the class pictures times ``prior_weight``."""
    photos = losses[:num_photos].mean()
    if num_photos == len(losses):
        return photos
    return photos + prior_weight * losses[num_photos:].mean()


def cosine(step: int, warmup_steps: int, num_steps: int) -> float:
    """The share of the learning rate at ``step``: linear warm-up, then half a cosine down to 0."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
