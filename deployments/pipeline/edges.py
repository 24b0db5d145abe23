"""Edges of a picture (Canny 1986), the conditioning of a ControlNet trained on them. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

_SIGMA = 1.4
_LOW, _HIGH = 0.1, 0.25


def canny(pixels: npt.NDArray[np.uint8], *, low: float = _LOW, high: float = _HIGH) -> Floats:
    """Edges of ``pixels`` ``[h, w, 3]`` as ``[h, w]``, 1 on an edge and 0 elsewhere.

    ``low`` and ``high`` are thresholds of the gradient's magnitude, as shares of the steepest possible
    one: weak edges count where they continue a strong one.
    """
    grey = Image.fromarray(pixels).convert("L").filter(ImageFilter.GaussianBlur(_SIGMA))
    padded: Floats = np.pad(np.asarray(grey, np.float32) / np.float32(255), 1, mode="edge")
    across: Floats = _sobel(padded)
    down = _sobel(padded.T).T
    magnitude = (np.hypot(across, down) / 4).astype(np.float32)
    ridges = np.where(_is_ridge(magnitude, across, down), magnitude, 0)
    return _connected(ridges >= low, ridges >= high).astype(np.float32)


def _sobel(padded: Floats) -> Floats:
    smooth = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return smooth[:, 2:] - smooth[:, :-2]


def _is_ridge(magnitude: Floats, across: Floats, down: Floats) -> Flags:
    """Where the magnitude is greatest along the gradient's direction, to the nearest eighth of a turn."""
    sector = np.rint(np.arctan2(down, across) / (np.pi / 4)).astype(int) % 4
    steps = ((0, 1), (1, 1), (1, 0), (1, -1))
    padded = np.pad(magnitude, 1)
    height, width = magnitude.shape
    ridge = np.zeros(magnitude.shape, bool)
    for number, (dy, dx) in enumerate(steps):
        ahead = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        ridge |= (sector == number) & (magnitude >= ahead) & (magnitude > behind)
    return ridge


def _connected(weak: Flags, strong: Flags) -> Flags:
    """Weak pixels that reach a strong one over weak ones, diagonals included."""
    height, width = strong.shape
    found = strong
    while True:
        padded = np.pad(found, 1)
        grown = np.zeros_like(found)
        for dy in range(3):
            for dx in range(3):
                grown |= padded[dy : dy + height, dx : dx + width]
        grown &= weak
        if (grown == found).all():
            return found
        found = grown
