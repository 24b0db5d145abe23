"""Train the autoencoder: python -m weights.recipe.train_vae --data DIR --out DIR --steps N.

Random 64 x 64 crops, then whole pictures from --whole-from on, so that normalisation layers meet both.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from weights.recipe.architecture import VAE_BLOCKS, build_vae
from weights.recipe.command import plan_of, training_parser
from weights.recipe.norm import use_fast_norms
from weights.recipe.parallel import device_of, train
from weights.recipe.vae import autoencoder_loss


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Turn uint8 pictures [B, H, W, 3] into channels-last floats [B, 3, H, W] in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


@dataclass
class VaeTask:
    """Reconstruct random crops of the pictures in data."""

    data: Path
    whole_from: int
    crop: int = 64
    blocks: tuple[int, ...] = VAE_BLOCKS
    pictures: Any = field(default=None, repr=False)

    def build(self) -> nn.Module:
        """Return an untrained autoencoder."""
        return use_fast_norms(build_vae(self.blocks))

    def open(self) -> None:
        """Map the pictures."""
        self.pictures = np.load(self.data / "pictures.npy", mmap_mode="r")

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the loss of batch crops, or of a quarter as many whole pictures."""
        height, width = self.pictures.shape[1:3]
        whole = step >= self.whole_from
        count = max(1, batch // 4) if whole else batch
        size = height if whole else min(self.crop, height)
        rows = torch.randint(len(self.pictures), (count,), generator=generator).tolist()
        tops = torch.randint(height - size + 1, (count,), generator=generator).tolist()
        lefts = torch.randint(width - size + 1, (count,), generator=generator).tolist()
        crops = [
            self.pictures[row, top : top + size, left : left + size]
            for row, top, left in zip(rows, tops, lefts, strict=True)
        ]
        assert isinstance(model, AutoencoderKL)
        return autoencoder_loss(model, to_tensor(np.stack(crops)).to(device_of(model)), generator)

    def lr_scale(self, name: str) -> float:
        """Return 1: all layers learn alike."""
        return 1.0


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = training_parser(__doc__, steps=3000, batch=16, lr=2e-3)
    parser.add_argument("--whole-from", type=int, default=10**9)
    options = parser.parse_args(arguments)
    train(VaeTask(options.data, options.whole_from), plan_of(options))


if __name__ == "__main__":
    main()
