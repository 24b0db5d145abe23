"""A sheet of picture pairs with their captions, to look at.

Knows layout only; nothing about models or scenes.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP = 12
_TEXT_SIZE = 10
_TEXT_LINES = 4
_TEXT_COLUMNS = 50


@dataclass(frozen=True)
class Pair:
    """Two uint8 pictures [H, W, 3] of one size, shown side by side above their caption."""

    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    caption: str


def sheet(pairs: Sequence[Pair], columns: int = 4) -> Image.Image:
    """RGB picture of the pairs, row by row, on white. Raises `ValueError` without pairs."""
    if not pairs:
        raise ValueError("a sheet needs at least one pair")
    height, width = pairs[0].left.shape[:2]
    cell = (2 * width + _GAP, height + _TEXT_LINES * (_TEXT_SIZE + 3) + _GAP)
    rows = -(-len(pairs) // columns)
    page = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(_TEXT_SIZE)
    for index, pair in enumerate(pairs):
        left, top = _GAP + index % columns * cell[0], _GAP + index // columns * cell[1]
        page.paste(Image.fromarray(pair.left), (left, top))
        page.paste(Image.fromarray(pair.right), (left + width, top))
        lines = textwrap.wrap(pair.caption, _TEXT_COLUMNS, max_lines=_TEXT_LINES, placeholder=" …")
        pen.multiline_text((left, top + height + 3), "\n".join(lines), fill="#333333", font=font, spacing=2)
    return page
