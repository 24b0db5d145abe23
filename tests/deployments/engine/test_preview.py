"""The linear map from latents to colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deployments.engine.preview import PreviewMap


def test_applies_matrix_and_bias_per_pixel_and_clamps() -> None:
    fitted: dict[str, list[Any]] = {
        "matrix": [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 0.0]],
        "bias": [0.5, 0.0, 0.0],
    }
    latents = torch.zeros(4, 2, 3)
    latents[0, 1, 2] = 1.0
    latents[1, 1, 2] = 0.5
    latents[2, 1, 2] = 1.0
    rgb = PreviewMap.from_mapping(fitted).picture(latents)
    assert rgb.shape == (2, 3, 3)
    assert rgb.dtype == np.uint8
    assert rgb[1, 2].tolist() == [255, 64, 255]
    assert rgb[0, 0].tolist() == [128, 0, 0]
