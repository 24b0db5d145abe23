"""What of a portrait is painted anew, and what of the result is handed out. Knows pixels; not models.

A mask is float32 ``[h, w]`` in [0, 1], 1 where the picture is painted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from core import images
from core.specs import Box
from core.types import OutputFormat
from deployments.pipeline.gender_swap.families import RoomForHair

Mask = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

_HALF = 0.5
# Nearly all: a few pixels of noise or a watermark make no picture.
_BLACK_LEVEL = 12
_BLACK_SHARE = 0.98
# Large pictures are mixed so many pixels at a time, to bound memory.
_BAND_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A picture ``[h, w, 3]``, the ``person`` in it (hair, face, clothes), and all that is ``painted``."""

    pixels: Pixels
    person: Mask
    painted: Mask

    @property
    def mask_png(self) -> bytes:
        grey = np.rint(self.painted * 255).astype(np.uint8)
        return images.encode(np.ascontiguousarray(grey), OutputFormat.PNG)

    def with_background(self, result: Pixels, tolerance: int) -> Pixels:
        """``result`` with the background of the portrait where it is still to be seen, bit for bit.

        That is where no person was, and where the result's colours are at most ``tolerance`` levels off;
        up to twice of that they are mixed, so that no edge shows. A result of another size stays as it is.
        """
        if result.shape != self.pixels.shape:
            return result
        mixed = result.copy()
        band = max(1, _BAND_PIXELS // result.shape[1])
        for top in range(0, result.shape[0], band):
            rows = slice(top, top + band)
            old, new = self.pixels[rows], result[rows]
            off = np.abs(new.astype(np.int16) - old).max(axis=-1)
            own = np.clip((2 * tolerance - off) / max(tolerance, 1), 0, 1)
            own = np.where(self.person[rows] < _HALF, own, 0)[..., None]
            between = np.rint(new + (old.astype(np.float32) - new) * own).astype(np.uint8)
            mixed[rows] = np.where(own >= 1, old, between)
        return mixed


def pixels_of(picture: Image.Image) -> Pixels:
    """An RGB picture as ``[h, w, 3]``."""
    return np.asarray(picture)


def portrait_of(
    pixels: Pixels, found: Mask | None, kept: Mask | None, face: Box, room: RoomForHair | None
) -> Portrait:
    """The portrait with its mask: the face, what was ``found``, all that is not ``kept``, room for hair."""
    person = _inside_box(face, pixels.shape[:2])
    if found is not None:
        person = np.maximum(person, found)
    if kept is not None:
        person = np.maximum(person, 1 - kept)
    painted = person if room is None else np.maximum(person, _arch(face, room, pixels.shape[:2]))
    return Portrait(pixels, person, painted)


def is_black(pixels: Pixels, painted: Mask | None = None) -> bool:
    """Whether nearly every pixel, of those that were ``painted``, is black.

    A result of another size than its mask is judged as a whole.
    """
    dark = pixels.max(axis=-1) < _BLACK_LEVEL
    if painted is not None and painted.shape == dark.shape and (painted >= _HALF).any():
        dark = dark[painted >= _HALF]
    return bool(dark.mean() >= _BLACK_SHARE)


def _inside_box(face: Box, shape: tuple[int, ...]) -> Mask:
    inside = np.zeros(shape[:2], np.float32)
    inside[max(face.top, 0) : face.top + face.height, max(face.left, 0) : face.left + face.width] = 1
    return inside


def _arch(face: Box, room: RoomForHair, shape: tuple[int, ...]) -> Mask:
    """Where long hair falls: half an ellipse over the middle of the face, straight down at its sides."""
    left = face.left - room.beside * face.width
    right = face.left + (1 + room.beside) * face.width
    top = face.top - room.above * face.height
    middle = face.top + face.height / 2
    bottom = face.top + (1 + room.below) * face.height
    drawn = Image.new("L", (shape[1], shape[0]), 0)
    draw = ImageDraw.Draw(drawn)
    draw.pieslice((left, top, right, 2 * middle - top), 180, 360, fill=255)
    draw.rectangle((left, math.floor(middle), right, bottom), fill=255)
    arch: Mask = np.asarray(drawn, np.float32) / np.float32(255)
    return arch
