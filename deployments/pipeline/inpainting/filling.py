"""What stands inside the mask before the model has drawn there, got from the pixels around it.

Knows pixels alone. Classical methods only; no model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deployments.pipeline.inpainting.masks import grown

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Hole = npt.NDArray[np.bool_]

# Passes of relaxation per level: the fill is smooth, so few are enough.
_NUM_PASSES = 4


def from_surroundings(pixels: Pixels, hole: Hole) -> Pixels:
    """``pixels`` ``[h, w, 3]`` with the ``hole`` ``[h, w]`` filled by a membrane over what is around it.

    Pull-push over a pyramid (Gortler et al. 1996): known colours are averaged downwards, holes take the
    interpolated colour of the level below, and a few passes of Laplace's equation smooth each level.
    Everything outside the hole stays as it is. A hole that is everything becomes grey.
    """
    if not hole.any():
        return pixels
    if hole.all():
        return np.full_like(pixels, 128)
    known = (~hole).astype(np.float32)[..., None]
    filled = _filled(pixels.astype(np.float32) * known, known)
    return np.where(hole[..., None], np.clip(np.rint(filled), 0, 255).astype(np.uint8), pixels)


def matched(painted: Pixels, shown: Pixels, hole: Hole, reach: int = 2) -> Pixels:
    """``painted`` with its tone inside the ``hole`` moved to that of its surroundings; all ``[h, w, 3]``.

    Latents outside a mask are given and those inside are drawn, so tones may jump between them. ``shown``
    holds what the first ``reach`` pixels inside the hole should look like; the difference there is spread
    over all of the hole, as a membrane does it (Pérez et al. 2003, with the gradients of ``painted``).
    """
    rim = hole & (grown((~hole).astype(np.float32), reach) > 0)
    if not rim.any():
        return painted
    weight = rim.astype(np.float32)[..., None]
    offset = _filled((shown.astype(np.float32) - painted) * weight, weight)
    moved = np.clip(np.rint(painted + offset), 0, 255).astype(np.uint8)
    return np.where(hole[..., None], moved, painted)


def _filled(weighted: Floats, weight: Floats) -> Floats:
    """Colours everywhere, of ``weighted`` colours ``[h, w, 3]`` and their weights ``[h, w, 1]`` in [0, 1]."""
    colors: Floats = (weighted / np.maximum(weight, 1e-6)).astype(np.float32)
    if weight.min() > 0:
        return colors
    below = _filled(*_halved(weighted, weight))
    smooth = _doubled(below, weighted.shape[0], weighted.shape[1])
    filled: Floats = np.where(weight > 0, colors, smooth)
    for _ in range(_NUM_PASSES):
        filled = np.where(weight > 0, colors, _mean_of_neighbours(filled))
    return filled


def _halved(weighted: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Both at half the size, weights summed and cut at 1, so that one known pixel settles its block."""
    odd = [(0, side % 2) for side in weight.shape[:2]]
    sums = []
    for array in (weighted, weight):
        even = np.pad(array, (*odd, (0, 0)))
        sums.append(even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2])
    scale = np.minimum(1, sums[1]) / np.maximum(sums[1], 1e-6)
    return (sums[0] * scale).astype(np.float32), (sums[1] * scale).astype(np.float32)


def _doubled(colors: Floats, height: int, width: int) -> Floats:
    """``colors`` at twice the size by bilinear interpolation, cut to ``height`` × ``width``."""
    for axis in (0, 1):
        padded = np.pad(colors, [(1, 1) if each == axis else (0, 0) for each in range(3)], mode="edge")
        last = padded.shape[axis] - 2
        before, after = padded.take(range(last), axis), padded.take(range(2, last + 2), axis)
        pair = np.stack([0.75 * colors + 0.25 * before, 0.75 * colors + 0.25 * after], axis + 1)
        shape = list(colors.shape)
        shape[axis] *= 2
        colors = pair.reshape(shape).astype(np.float32)
    return colors[:height, :width]


def _mean_of_neighbours(colors: Floats) -> Floats:
    padded = np.pad(colors, ((1, 1), (1, 1), (0, 0)), mode="edge")
    sums = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (sums / 4).astype(np.float32)
