"""The passes that a request takes: one inside a mask; several beyond the edges where one would not do.

Knows sizes, masks and margins; nothing of latents or models beyond their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.errors import InvalidRequest
from core.specs import Box, Margins
from core.types import ModelInfo
from deployments.pipeline.inpainting import masks
from deployments.pipeline.inpainting.canvas import Pixels, Working, slices, working_on
from deployments.pipeline.inpainting.masks import Mask

MAX_PASSES = 24
_NO_MARGINS = Margins()


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a family draws beyond an edge in one pass.

    ``step`` is the most that one margin may take of a pass's shorter side, ``area`` how many times its
    native pixels the model may see.
    """

    step: float = 0.5
    area: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One turn of the model: the picture grows by ``margins``, then the box's ``mask`` is painted."""

    working: Working
    mask: Mask
    margins: Margins = _NO_MARGINS

    def canvas(self, picture: Pixels) -> Pixels:
        """``picture`` with its edges continued into the margins."""
        grown = self.margins
        if grown == _NO_MARGINS:
            return picture
        return np.pad(picture, ((grown.top, grown.bottom), (grown.left, grown.right), (0, 0)), mode="edge")


def pass_inside(mask: Mask, box: Box, info: ModelInfo) -> Pass:
    """The one pass that paints ``mask``, which is that of the whole picture, seen within ``box``."""
    return Pass(working_on(box, info), mask[slices(box)])


def passes_beyond(
    margins: Margins, *, width: int, height: int, feather: int, reach: Reach, info: ModelInfo
) -> tuple[Pass, ...]:
    """The passes that enlarge a picture of ``width`` × ``height`` by ``margins``.

    One if every margin is within ``reach``, otherwise one side after the other, in steps that are. The
    mask rises from the old picture outwards, so every pixel of that stays as it is. Raises
    :class:`InvalidRequest` for no margins and for too many steps.
    """
    if margins == _NO_MARGINS:
        raise InvalidRequest("No margin is wider than 0.", field="margins")
    passes: list[Pass] = []
    for step in _steps(margins, width, height, reach.step):
        if len(passes) == MAX_PASSES:
            raise InvalidRequest(
                f"These margins would take over {MAX_PASSES} passes: they are too wide for the picture.",
                field="margins",
                limit=MAX_PASSES,
            )
        box = _shown(step, width, height)
        mask = masks.feathered(_new_part(step, box, width, height), feather)
        passes.append(Pass(working_on(box, info, _area(box, width, height, reach, info)), mask, step))
        width, height = _enlarged(step, width, height)
    return tuple(passes)


def _steps(margins: Margins, width: int, height: int, most: float) -> Iterator[Margins]:
    full = min(_enlarged(margins, width, height))
    if max(margins.left, margins.top, margins.right, margins.bottom) <= most * full:
        yield margins
        return
    for length in _cut(margins.left, most * height):
        yield Margins(left=length)
    for length in _cut(margins.right, most * height):
        yield Margins(right=length)
    width += margins.left + margins.right
    for length in _cut(margins.top, most * width):
        yield Margins(top=length)
    for length in _cut(margins.bottom, most * width):
        yield Margins(bottom=length)


def _cut(length: int, most: float) -> Iterator[int]:
    """``length`` in nearly equal parts of about ``most`` at most."""
    count = -(-length // max(1, round(most)))
    for index in range(count):
        yield length * (index + 1) // count - length * index // count


def _enlarged(step: Margins, width: int, height: int) -> tuple[int, int]:
    return width + step.left + step.right, height + step.top + step.bottom


def _shown(step: Margins, width: int, height: int) -> Box:
    """What the model sees of the picture enlarged by ``step``: of a longer one, the square at its end."""
    full_width, full_height = _enlarged(step, width, height)
    sideways, upright = step.left + step.right, step.top + step.bottom
    if sideways and not upright and full_width > height:
        left = 0 if step.left else full_width - height
        # A step on both sides needs all that lies between them.
        if not (step.left and step.right):
            return Box(left=left, top=0, width=height, height=height)
    if upright and not sideways and full_height > width and not (step.top and step.bottom):
        top = 0 if step.top else full_height - width
        return Box(left=0, top=top, width=width, height=width)
    return Box(left=0, top=0, width=full_width, height=full_height)


def _new_part(step: Margins, box: Box, width: int, height: int) -> Mask:
    """Within ``box``, 1 for what is not of the picture of ``width`` × ``height``."""
    mask = np.ones((box.height, box.width), np.float32)
    left, top = step.left - box.left, step.top - box.top
    mask[max(0, top) : top + height, max(0, left) : left + width] = 0
    return mask


def _area(box: Box, width: int, height: int, reach: Reach, info: ModelInfo) -> int:
    """As many pixels as the model would see ``box`` with if it saw the old picture natively, within reach."""
    growth = box.width * box.height / (width * height)
    return round(info.default_size**2 * min(max(growth, 1.0), reach.area))
