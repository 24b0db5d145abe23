"""The part of a picture that the model works on, at the model's size, and the way back into the picture.

Knows pixels and rectangles; nothing of latents, prompts or requests. Nothing is ever distorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.fitting import Fitted, fit
from core.specs import Box
from core.types import ModelInfo
from deployments.pipeline.inpainting import masks
from deployments.pipeline.inpainting.masks import Mask

Pixels = npt.NDArray[np.uint8]

# A longer rectangle would be shown to the model in a shape that it has not been trained on.
_MAX_RATIO = 1.5
_BAND_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Working:
    """``box`` of the picture, scaled to the size of ``fitted`` and continued to its padded size.

    The padding lies right and below and repeats the last column and row.
    """

    box: Box
    fitted: Fitted

    @property
    def scale(self) -> float:
        """Pixels of the picture for one that the model sees."""
        return max(self.box.width, self.box.height) / max(self.fitted.width, self.fitted.height)

    def shown(self, picture: Pixels) -> Pixels:
        """What the model sees of ``picture`` ``[h, w, 3]``: ``[padded_height, padded_width, 3]``."""
        part = Image.fromarray(np.ascontiguousarray(picture[slices(self.box)]))
        scaled = np.asarray(_resized(part, self.fitted.width, self.fitted.height))
        return np.pad(scaled, self._padding, mode="edge")

    def region(self, mask: Mask, factor: int = 1) -> Mask:
        """What of the model's view is painted, a value per ``factor`` × ``factor`` pixels; 0 and 1 only.

        ``mask`` is that of the box. Everything that touches a pixel of it above 0 is painted.
        """
        fitted = self.fitted
        right = self.box.width * fitted.padded_width / fitted.width
        bottom = self.box.height * fitted.padded_height / fitted.height
        return masks.at_latent_size(
            mask,
            right=right,
            bottom=bottom,
            width=fitted.padded_width // factor,
            height=fitted.padded_height // factor,
        )

    def pasted(self, picture: Pixels, painted: Pixels, mask: Mask) -> Pixels:
        """``picture`` with ``painted``, made of what was :meth:`shown`, blended in by the box's ``mask``.

        Every pixel where the mask is 0 is that of ``picture``, bit for bit.
        """
        content = Image.fromarray(np.ascontiguousarray(painted[: self.fitted.height, : self.fitted.width]))
        drawn = np.asarray(_resized(content, self.box.width, self.box.height))
        result = picture.copy()
        place = result[slices(self.box)]
        band = max(1, _BAND_PIXELS // self.box.width)
        for top in range(0, self.box.height, band):
            rows = slice(top, top + band)
            weight = mask[rows, :, None]
            if weight.any():
                old = place[rows].astype(np.float32)
                blended = np.rint(old + (drawn[rows] - old) * weight).astype(np.uint8)
                place[rows] = np.where(weight == 0, place[rows], blended)
        return result

    @property
    def _padding(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        fitted = self.fitted
        return (0, fitted.padded_height - fitted.height), (0, fitted.padded_width - fitted.width), (0, 0)


def working_on(box: Box, info: ModelInfo, max_area: int | None = None) -> Working:
    """``box`` at as many pixels as the model's native picture has, or ``max_area``, within its limits."""
    fitted = fit(
        box.width,
        box.height,
        max_area=max_area or info.default_size**2,
        multiple=info.size_multiple,
        max_side=info.max_size,
    )
    return Working(box, fitted)


def whole(picture: Pixels) -> Box:
    return Box(left=0, top=0, width=picture.shape[1], height=picture.shape[0])


def around(mask: Mask, padding: int, info: ModelInfo) -> Box:
    """The surroundings of what the mask paints: ``padding`` pixels on each side, and more where sensible.

    At least the model's native size, so that nothing is enlarged for want of surroundings, and not much
    longer than wide; both as far as the picture reaches.
    """
    tight = masks.bounding_box(mask, padding)
    least = max(info.default_size, math.ceil(max(tight.width, tight.height) / _MAX_RATIO))
    left, width = _widened(tight.left, tight.width, least, mask.shape[1])
    top, height = _widened(tight.top, tight.height, least, mask.shape[0])
    return Box(left=left, top=top, width=width, height=height)


def _widened(start: int, length: int, least: int, limit: int) -> tuple[int, int]:
    """A span at least ``least`` long around the given one, moved or cut where ``limit`` ends it."""
    wanted = min(max(length, least), limit)
    first = start - (wanted - length) // 2
    return min(max(first, 0), limit - wanted), wanted


def _resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def slices(box: Box) -> tuple[slice, slice]:
    """Rows and columns of ``box``."""
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
