"""Pictures of coloured discs, and a network that knows colours: what is looked for is known exactly."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deployments.pipeline.perception.views import Map, Pixels

COLOURS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (30, 30, 220), "grey": (128, 128, 128)}


def discs(size: tuple[int, int], *placed: tuple[str, int, int, int], ground: str = "grey") -> Image.Image:
    """Discs (colour, x, y, radius) on a ground."""
    picture = Image.new("RGB", size, COLOURS[ground])
    draw = ImageDraw.Draw(picture)
    for colour, x, y, radius in placed:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
    return picture


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class ColourNetwork:
    """Its words are colours. A pixel is one if it is near it; a view fits a colour by the share it covers.

    A word that is no colour has ``background`` as its probability everywhere.
    """

    def __init__(self, side: int = 32, background: float = 0.1) -> None:
        self.side = side
        self.background = background
        self.views_seen: list[int] = []
        self.closed = False

    async def masks(self, views: Pixels, phrases: tuple[str, ...]) -> Map:
        self.views_seen.append(len(views))
        return np.stack([self._of(views, phrase) for phrase in phrases], axis=1)

    async def logits(self, views: Pixels, phrases: tuple[str, ...]) -> Map:
        shares: Map = (await self.masks(views, phrases)).mean(axis=(2, 3))
        return shares * 20

    def close(self) -> None:
        self.closed = True

    def _of(self, views: Pixels, phrase: str) -> Map:
        if phrase not in COLOURS:
            return np.full(views.shape[:3], self.background, np.float32)
        far = np.abs(views.astype(np.int32) - np.array(COLOURS[phrase])).max(axis=3)
        return np.where(far < 60, 0.9, 0.1).astype(np.float32)


def covered(size: tuple[int, int], placed: Sequence[tuple[int, int, int]]) -> float:
    """The share of a picture that discs (x, y, radius) which do not overlap cover."""
    return sum(np.pi * radius**2 for _, _, radius in placed) / (size[0] * size[1])
