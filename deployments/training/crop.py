"""Which square of a photo to train on. Pure arithmetic over boxes; knows neither detectors nor files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.specs import Box

# Specks of a mask beyond these shares of it do not widen its box.
_OUTER = 0.005


@dataclass(frozen=True, slots=True)
class Zoom:
    """How close to go: a subject narrower than ``fair_share`` of the widest square is zoomed to.

    The square is then ``room`` times as wide as the subject.
    """

    fair_share: float
    room: float


# With its hair, neck and shoulders a face takes about three times its own width.
FACE = Zoom(fair_share=0.25, room=3.0)
THING = Zoom(fair_share=0.5, room=1.5)


def square_at(size: tuple[int, int], subject: Box | None, zoom: Zoom, *, min_side: int = 1) -> Box:
    """The square of a picture of ``size`` (width, height) that shows ``subject``, or the middle for None.

    It never leaves the picture, and is the widest one that fits in where the subject fills a fair share
    of that. Zooming stops at ``min_side`` pixels: more would only enlarge what is not there.
    """
    width, height = size
    side = min(width, height)
    across, down = width / 2, height / 2
    if subject is not None:
        longer = max(subject.width, subject.height)
        if longer < zoom.fair_share * side:
            side = min(side, max(round(zoom.room * longer), min_side))
        across, down = subject.left + subject.width / 2, subject.top + subject.height / 2
    left = min(max(round(across - side / 2), 0), width - side)
    top = min(max(round(down - side / 2), 0), height - side)
    return Box(left=left, top=top, width=side, height=side)


def box_of(mask: npt.NDArray[Any]) -> Box | None:
    """The box around a soft mask ``[height, width]``, values from 0 to 255; None for an empty one."""
    inside = mask >= 128
    if not inside.any():
        return None
    left, right = _extent(inside.sum(0))
    top, bottom = _extent(inside.sum(1))
    return Box(left=left, top=top, width=right - left, height=bottom - top)


def scaled(box: Box, factor: float, size: tuple[int, int]) -> Box:
    """``box`` with every coordinate times ``factor``, within a picture of ``size`` and not empty."""
    width, height = size
    left = min(max(int(box.left * factor), 0), width - 1)
    top = min(max(int(box.top * factor), 0), height - 1)
    right = min(max(round((box.left + box.width) * factor), left + 1), width)
    bottom = min(max(round((box.top + box.height) * factor), top + 1), height)
    return Box(left=left, top=top, width=right - left, height=bottom - top)


def _extent(counts: npt.NDArray[Any]) -> tuple[int, int]:
    """First and one past the last index that hold all but the outermost shares of ``counts``."""
    passed = counts.cumsum() / counts.sum()
    first = int(np.searchsorted(passed, _OUTER, side="right"))
    last = int(np.searchsorted(passed, 1 - _OUTER, side="left"))
    return first, last + 1
