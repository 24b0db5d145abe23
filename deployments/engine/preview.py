"""Latents to a small picture by a linear map. Knows no VAE: the map was fitted to one beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PreviewMap:
    """RGB in 0 to 1 = ``latents @ matrix + bias``, for latents as the UNet sees them.

    ``matrix`` is ``[channels, 3]``, ``bias`` ``[3]``.
    """

    matrix: Tensor
    bias: Tensor

    @classmethod
    def from_mapping(cls, fitted: Mapping[str, Sequence[Any]]) -> Self:
        """Read ``{"matrix": [[r, g, b] per channel], "bias": [r, g, b]}``."""
        return cls(
            torch.tensor(fitted["matrix"], dtype=torch.float32),
            torch.tensor(fitted["bias"], dtype=torch.float32),
        )

    def picture(self, latents: Tensor) -> npt.NDArray[np.uint8]:
        """``latents`` ``[channels, h, w]`` as ``[h, w, 3]``."""
        rgb = torch.einsum("chw,cr->hwr", latents.cpu(), self.matrix) + self.bias
        pixels: npt.NDArray[np.uint8] = rgb.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
        return pixels
