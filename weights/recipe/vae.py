"""The autoencoder's losses and the normalisation of its latents.

Knows pictures [B, 3, H, W] in [-1, 1] and the AutoencoderKL class; nothing about files or optimizers.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

KL_WEIGHT = 1e-3
SCALE_WEIGHT = 0.25


def picture_loss(decoded: Tensor, pictures: Tensor) -> Tensor:
    """Return absolute + squared error, edge error and colour error over 8 x 8 blocks.

    The colour term keeps flat areas true: edges alone teach shapes long before colours.
    """
    difference = decoded - pictures
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    colour = F.avg_pool2d(difference, 8).abs().mean()
    return difference.abs().mean() + 2 * difference.square().mean() + 0.5 * edges + colour


def autoencoder_loss(vae: AutoencoderKL, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return the training loss of one batch; generator draws the latents.

    Decoding halved latents to halved pictures keeps latents smooth, which the UNet learns faster
    (Skorokhodov et al. 2025, scale equivariance).
    """
    posterior = vae.encode(pictures).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean.device)
    latents = posterior.mean + posterior.std * noise.contiguous(memory_format=torch.channels_last)
    loss = picture_loss(vae.decode(latents).sample.float(), pictures)
    half = vae.decode(F.avg_pool2d(latents, 2)).sample.float()
    loss = loss + SCALE_WEIGHT * (half - F.avg_pool2d(pictures, 2)).abs().mean()
    total: Tensor = loss + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
    return total


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold a per-channel shift and scale into the 1 x 1 convolutions around the latents.

    Afterwards every channel has mean 0 and standard deviation 1, so `scaling_factor` is 1 and no pipeline
    needs to know. mean and std are those of the present latents, [4] each.
    """
    channels = mean.shape[0]
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= std.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Return the mean peak signal-to-noise ratio in dB of decoded latents, over pictures in [-1, 1]."""
    ratios = []
    for start in range(0, len(pictures), 8):
        batch = pictures[start : start + 8]
        decoded = vae.decode(vae.encode(batch).latent_dist.mode()).sample.float().clamp(-1, 1)
        error = ((decoded - batch) / 2).square().mean(dim=(1, 2, 3))
        ratios.append(-10 * error.clamp_min(1e-10).log10())
    return float(torch.cat(ratios).mean())
