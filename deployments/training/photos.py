"""What is wrong with a set of photos: too small, blurred, the same twice. Knows pixels; nothing of faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.specs import Box

# Pictures are compared as thumbnails of this side. Saved again, smaller or as JPEG of quality 30, a picture
# differed from itself by at most 3.7 of 255 (root mean square); 800 renderings of the embedded world, the
# most alike pictures there are, differed by 9.3 and more from each other.
_THUMBNAIL = 16
_SAME_BELOW = 5.0
# The sharpest edges of a sharp photo are above 70 at this side (99th percentile of the Laplacian), those of
# the softest renderings 17; blurred by four pixels of 210 a face has 7.
_SHARPNESS_SIDE = 256
_BLURRED_BELOW = 9.0


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What is kept of a photo to judge it by. ``side`` is that of its crop, in pixels."""

    thumbnail: npt.NDArray[np.float32]
    side: int
    sharpness: float


def look_at(picture: Image.Image, crop: Box, model_side: int) -> Look:
    """``picture`` in mode RGB, the square ``crop`` of it, and the side that the model draws at."""
    thumbnail = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    corners = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    side = min(_SHARPNESS_SIDE, model_side)
    grey = picture.convert("L").resize((side, side), Image.Resampling.LANCZOS, box=corners)
    return Look(np.asarray(thumbnail, np.float32), crop.width, sharpness(np.asarray(grey, np.float32)))


def sharpness(grey: npt.NDArray[Any]) -> float:
    """The 99th percentile of the Laplacian's magnitude over ``[height, width]`` values from 0 to 255."""
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(np.percentile(np.abs(laplacian), 99))


def warnings_about(looks: Sequence[Look], model_side: int) -> list[str]:
    """One sentence for each thing that will make the adapter worse. Photos count from 1."""
    found = [
        f"Photos {_listed(group)} are the same picture; different ones teach more."
        for group in same_pictures(looks)
    ]
    for number, look in enumerate(looks, 1):
        if look.side < model_side:
            found.append(
                f"Photo {number} shows its subject on {look.side} × {look.side} pixels; "
                f"the model draws {model_side} × {model_side}."
            )
        elif look.sharpness < _BLURRED_BELOW:
            found.append(f"Photo {number} is blurred.")
    return found


def same_pictures(looks: Sequence[Look]) -> list[list[int]]:
    """The numbers, from 1, of photos that are one picture: the same file, or saved again in another way."""
    groups: list[list[int]] = []
    for number, look in enumerate(looks, 1):
        for group in groups:
            if _distance(looks[group[0] - 1], look) < _SAME_BELOW:
                group.append(number)
                break
        else:
            groups.append([number])
    return [group for group in groups if len(group) > 1]


def _distance(one: Look, other: Look) -> float:
    return float(np.sqrt(np.mean((one.thumbnail - other.thumbnail) ** 2)))


def _listed(numbers: Sequence[int]) -> str:
    """ "2, 3 and 5" """
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}"
