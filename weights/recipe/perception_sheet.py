"""A sheet of pictures and of what was found in them for each word, to look at.

Knows layout only; nothing about models or scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_LABEL = 14
_SHADE = np.array([70, 0, 90], np.float32)


@dataclass(frozen=True)
class Found:
    """A word, the mask found for it and the true one, [H, W] each."""

    word: str
    found: NDArray[np.bool_]
    wanted: NDArray[np.bool_]


def shaded(picture: NDArray[np.uint8], found: Found) -> NDArray[np.uint8]:
    """The picture, dark outside the found mask; missed pixels red, wrong ones cyan."""
    shown = np.where(found.found[..., None], picture, 0.25 * picture + 0.5 * _SHADE)
    shown[found.wanted & ~found.found] = (255, 40, 40)
    shown[found.found & ~found.wanted] = (0, 220, 255)
    return shown.astype(np.uint8)


def sheet(rows: Sequence[tuple[NDArray[np.uint8], Sequence[Found]]]) -> Image.Image:
    """RGB picture with a row for each uint8 picture [H, W, 3]. Raises `ValueError` without rows."""
    if not rows:
        raise ValueError("a sheet needs at least one row")
    height, width = rows[0][0].shape[:2]
    columns = 1 + max(len(found) for _, found in rows)
    step = (width + _GAP, height + _GAP + _LABEL)
    page = Image.new("RGB", (columns * step[0] + _GAP, len(rows) * step[1] + _GAP), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(11)
    for index, (picture, found) in enumerate(rows):
        top = _GAP + index * step[1]
        page.paste(Image.fromarray(picture), (_GAP, top + _LABEL))
        for column, one in enumerate(found, start=1):
            left = _GAP + column * step[0]
            pen.text((left, top), one.word, fill="#222222", font=font)
            page.paste(Image.fromarray(shaded(picture, one)), (left, top + _LABEL))
    return page
