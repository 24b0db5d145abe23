"""How loosely a shape is followed where no learned token says it: by the mask itself. Knows arrays alone."""

from __future__ import annotations

import numpy as np

from deployments.pipeline.inpainting.masks import Mask, Region, bounding_box


def loosened(mask: Mask, fitting_degree: float) -> Mask:
    """``mask`` itself at ``fitting_degree`` 1, its whole bounding box at 0, swollen within the box between.

    A mask that covers nothing at half height stays as it is.
    """
    region = mask >= 0.5
    if fitting_degree >= 1 or not region.any():
        return mask
    box = bounding_box(region.astype(np.float32))
    inside = (slice(box.top, box.top + box.height), slice(box.left, box.left + box.width))
    loose = mask.copy()
    # Few points of the box are further from the shape than half its shorter side.
    radius = round((1 - fitting_degree) * min(box.width, box.height) / 2)
    covered = _swollen(region[inside], radius) if fitting_degree > 0 else True
    loose[inside] = np.where(covered, 1, mask[inside])
    return loose


def _swollen(region: Region, radius: int) -> Region:
    """Dilation by a square that reaches ``radius`` pixels in each direction."""
    for axis in (0, 1):
        size = region.shape[axis]
        total = np.insert(np.cumsum(region, axis=axis, dtype=np.int64), 0, 0, axis=axis)
        after = np.minimum(np.arange(size) + radius + 1, size)
        before = np.maximum(np.arange(size) - radius, 0)
        region = total.take(after, axis=axis) > total.take(before, axis=axis)
    return region
