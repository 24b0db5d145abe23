"""A picture of any shape as square views, which is all that a vision tower reads, and the way back.

Knows pixels; not what is looked for in them. Nothing is ever squashed: a picture whose sides are nearly
equal is made square by repeating its edge, a longer one is covered by overlapping squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]

MAX_VIEWS = 8
# Up to this ratio of the sides a picture is padded. Measured on portraits of the embedded family, cropped to
# ratios of 1.14 to 1.78: edges repeated find more (mean IoU 0.85 to 0.68) than edges mirrored (0.85 to 0.66),
# the picture squashed (0.85 to 0.63) or overlapping views (0.86 to 0.52).
MAX_PADDED_RATIO = 1.8
# From one view to the next, in sides of a view, at most. A quarter is seen twice: each seam has two opinions.
OVERLAPPING = 0.75
# Seen once, where the sides allow it: a row of square pictures falls apart into them.
SIDE_BY_SIDE = 1.0
# A picture this much longer than a whole number of squares, in sides, is padded and not given one more view.
_SLACK = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Square views ``[n, side, side, 3]`` of a picture that was scaled to ``height`` × ``width``.

    ``corners`` are the views' upper left corners (top, left) in pixels of the scaled picture, negative
    where an edge was repeated. ``size`` is the picture's own (width, height).
    """

    pixels: Pixels
    corners: tuple[tuple[int, int], ...]
    height: int
    width: int
    size: tuple[int, int]

    @property
    def side(self) -> int:
        return int(self.pixels.shape[1])

    def stitch(self, maps: Map) -> Map:
        """One map ``[height, width]`` of the scaled picture from those ``[n, side, side]`` of its views.

        Where views overlap, the one whose middle is nearer counts more: at its rim a view knows less.
        """
        side = self.side
        nearness = 1 - np.abs(2 * (np.arange(side, dtype=np.float32) + 0.5) / side - 1)
        weight = nearness[:, None] * nearness[None, :]
        total = np.zeros((self.height, self.width), np.float32)
        weights = np.zeros_like(total)
        for (top, left), one in zip(self.corners, maps, strict=True):
            y0, x0 = max(top, 0), max(left, 0)
            y1, x1 = min(top + side, self.height), min(left + side, self.width)
            seen = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            total[y0:y1, x0:x1] += one[seen] * weight[seen]
            weights[y0:y1, x0:x1] += weight[seen]
        stitched: Map = total / weights
        return stitched

    def nearest(self, y: float, x: float) -> int:
        """Index of the view whose middle is nearest to a point of the scaled picture."""
        half = self.side / 2
        distances = [math.hypot(top + half - y, left + half - x) for top, left in self.corners]
        return int(np.argmin(distances))


def square_views(
    picture: Image.Image,
    side: int,
    *,
    max_padded_ratio: float = MAX_PADDED_RATIO,
    stride: float = OVERLAPPING,
) -> Views:
    """The views of an RGB picture, one if its sides' ratio is at most ``max_padded_ratio``.

    A longer picture takes up to ``MAX_VIEWS`` views along its longer side, at most ``stride`` apart; beyond
    that the views are padded too.
    """
    width, height = picture.size
    ratio = max(width, height) / min(width, height)
    reach = 1.0 if ratio <= max_padded_ratio else min(ratio, 1 + (MAX_VIEWS - 1) * stride)
    if reach % 1 < _SLACK:
        reach = float(int(reach))
    scale = reach * side / max(width, height)
    scaled_width, scaled_height = (max(1, round(length * scale)) for length in (width, height))
    small = picture.resize((scaled_width, scaled_height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    tops, lefts = _offsets(scaled_height, side, stride), _offsets(scaled_width, side, stride)
    corners = tuple((top, left) for top in tops for left in lefts)
    below, beside = max(0, side - scaled_height), max(0, side - scaled_width)
    padded = np.pad(
        np.asarray(small),
        ((below // 2, below - below // 2), (beside // 2, beside - beside // 2), (0, 0)),
        mode="edge",
    )
    views = [
        padded[top + below // 2 : top + below // 2 + side, left + beside // 2 : left + beside // 2 + side]
        for top, left in corners
    ]
    return Views(np.stack(views), corners, scaled_height, scaled_width, (width, height))


def whole_view(picture: Image.Image, side: int) -> Views:
    """The picture in one view, whatever its shape."""
    return square_views(picture, side, max_padded_ratio=math.inf)


def _offsets(length: int, side: int, stride: float) -> list[int]:
    """Where views start along an axis of the scaled picture: one in the middle, or evenly from end to end."""
    if length <= side:
        return [-((side - length) // 2)]
    num = math.ceil((length / side - 1) / stride - 1e-6) + 1
    return [round(index * (length - side) / (num - 1)) for index in range(num)]
