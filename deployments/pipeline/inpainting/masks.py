"""Mask arithmetic. A mask is float32 ``[h, w]`` in [0, 1], 1 where the picture is painted anew.

Knows arrays alone; nothing of pictures, latents or requests.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from core.errors import InvalidRequest
from core.specs import Box

Mask = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.uint16 | np.uint32]

_HALF = 0.5
# Squared distances of up to this many pixels, twice, fit 16 bits.
_MAX_SHORT = 180
_BAND_BYTES = 1 << 18


def solid(mask: Mask) -> Mask:
    """1 where the mask covers at half height, 0 elsewhere."""
    return (mask >= _HALF).astype(np.float32)


def of_box(box: Box, *, width: int, height: int) -> Mask:
    """The part of ``box`` that lies in a picture of ``width`` × ``height`` pixels."""
    mask = np.zeros((height, width), np.float32)
    mask[max(0, box.top) : max(0, box.top + box.height), max(0, box.left) : max(0, box.left + box.width)] = 1
    return mask


def checked(mask: Mask, field: str) -> Mask:
    """``mask`` itself. Raises :class:`InvalidRequest` on ``field`` where it covers nothing."""
    if not (mask >= _HALF).any():
        raise InvalidRequest("The mask is empty: there is nothing to paint.", field=field)
    return mask


def bounding_box(mask: Mask, padding: int = 0) -> Box:
    """The least rectangle around everything above 0, and ``padding`` around it where the picture has it.

    The mask must not be all 0.
    """
    return _box_around(mask > 0, padding)


def grown(mask: Mask, pixels: int) -> Mask:
    """What is covered at half height, dilated by a disc of radius ``pixels``; the mask itself for 0."""
    if pixels <= 0:
        return mask
    region = mask >= _HALF
    result = np.zeros(mask.shape, np.float32)
    if region.any():
        inside = _slices(_box_around(region, pixels))
        result[inside] = _distance_sq(region[inside], pixels) <= pixels**2
    return result


def feathered(mask: Mask, pixels: int) -> Mask:
    """What is covered at half height, its edge rising from just over 0 to 1 within ``pixels`` inwards.

    Outside it stays exactly 0. The picture's border is no edge. A region too thin for such a wide edge
    gets the widest that still lets it reach 1. The mask itself for 0 pixels.
    """
    if pixels <= 0:
        return mask
    region = mask >= _HALF
    result = np.zeros(mask.shape, np.float32)
    if not region.any():
        return result
    inside = _slices(_box_around(region, 1))
    distance = np.sqrt(_distance_sq(~region[inside], pixels + 1).astype(np.float32))
    rise = np.clip(distance / min(pixels + 1.0, float(distance.max())), 0, 1)
    # Smoothstep: no visible line where the edge begins and ends.
    result[inside] = rise * rise * (3 - 2 * rise)
    return result


def at_latent_size(mask: Mask, *, right: float, bottom: float, width: int, height: int) -> Mask:
    """The mask ``[height, width]`` of latents that cover the mask from its corner to (right, bottom).

    0 and 1 only. ``right`` and ``bottom``, in pixels, may lie beyond the mask, whose last column and row
    then go on. A latent is painted when any pixel that it touches is above 0: diffusers takes the nearest
    pixel instead, which loses thin lines and leaves half-masked latents unpainted.
    """
    painted = mask > 0
    rows = np.stack([painted[span].any(axis=0) for span in _spans(bottom, height, mask.shape[0])])
    columns = [rows[:, span].any(axis=1) for span in _spans(right, width, mask.shape[1])]
    return np.stack(columns, axis=1).astype(np.float32)


def _spans(stop: float, count: int, limit: int) -> list[slice]:
    """The pixels, of ``limit``, that each of ``count`` equal parts from 0 to ``stop`` touches."""
    step = stop / count
    spans = []
    for index in range(count):
        # A hair's breadth of rounding must not reach into the next pixel.
        first = min(math.floor(index * step + 1e-6), limit - 1)
        last = math.ceil((index + 1) * step - 1e-6)
        spans.append(slice(first, min(max(last, first + 1), limit)))
    return spans


def _box_around(region: Region, padding: int) -> Box:
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    top, left = max(0, int(rows[0]) - padding), max(0, int(columns[0]) - padding)
    bottom = min(region.shape[0], int(rows[-1]) + 1 + padding)
    right = min(region.shape[1], int(columns[-1]) + 1 + padding)
    return Box(left=left, top=top, width=right - left, height=bottom - top)


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


def _distance_sq(region: Region, limit: int) -> Distances:
    """Squared distance of each pixel to the nearest of ``region``, exact up to ``limit`` and more beyond.

    Down the columns by the distance of the row before, then over the neighbours of each row.
    """
    height, width = region.shape
    kind = np.dtype(np.uint16 if limit <= _MAX_SHORT else np.uint32).type
    vertical: Distances = np.where(region, 0, limit + 1).astype(kind)
    for rows in (range(1, height), range(height - 2, -1, -1)):
        step = -rows.step
        for row in rows:
            np.minimum(vertical[row], vertical[row + step] + kind(1), out=vertical[row])
    square = vertical**2
    nearest = square.copy()
    # A band of rows at a time, so that the many passes over it stay in the cache.
    band = max(1, _BAND_BYTES // (width * square.itemsize))
    for top in range(0, height, band):
        here, out = square[top : top + band], nearest[top : top + band]
        for step in range(1, min(limit, width - 1) + 1):
            added = kind(step * step)
            np.minimum(out[:, step:], here[:, :-step] + added, out=out[:, step:])
            np.minimum(out[:, :-step], here[:, step:] + added, out=out[:, :-step])
    return nearest
