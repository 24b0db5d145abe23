"""Soft masks from words. Knows views, phrases and the network; not files that clients sent, nor HTTP."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from core.specs import FoundMask
from deployments.pipeline.perception.doubts import Doubts
from deployments.pipeline.perception.network import Network
from deployments.pipeline.perception.views import Map, Views, square_views
from deployments.pipeline.perception.words import phrases_of

_HALF = 128
_PEAK_SHARE = 0.002


@dataclass(frozen=True, slots=True, eq=False)
class SoftMask:
    """Probabilities at the network's resolution, for a picture of ``width`` × ``height`` pixels.

    Kept small: at 50 megapixels a float mask takes 200 MB.
    """

    map: Map
    width: int
    height: int

    def pixels(self) -> Map:
        """The mask ``[height, width]`` in [0, 1], float32, scaled bilinearly."""
        scaled: Map = np.asarray(self._scaled(Image.fromarray(self.map)))
        return scaled

    def found(self) -> FoundMask:
        """The mask as a greyscale PNG, and the share of the picture where it is white by half or more."""
        grey = Image.fromarray((self.map * 255).round().clip(0, 255).astype(np.uint8))
        scaled = self._scaled(grey)
        file = io.BytesIO()
        scaled.save(file, "PNG", compress_level=4)
        covered = sum(scaled.histogram()[_HALF:])
        return FoundMask(
            mask=file.getvalue(),
            coverage=covered / (self.width * self.height),
            width=self.width,
            height=self.height,
        )

    def _scaled(self, mask: Image.Image) -> Image.Image:
        return mask.resize((self.width, self.height), Image.Resampling.BILINEAR)


class MaskFinder:
    """Finds what words name.

    A phrase is nowhere in a picture if its highest probabilities, over 0.2 % of a view, have a mean under
    ``empty_below``: a few pixels alone are more often an error than a thing.
    """

    def __init__(self, network: Network, *, empty_below: float, doubts: Doubts | None = None) -> None:
        self._network = network
        self._empty_below = empty_below
        self._doubts = doubts

    def views(self, picture: Image.Image) -> Views:
        """What :meth:`find_in` needs of an RGB picture; blocks for as long as scaling takes."""
        return square_views(picture, self._network.side)

    async def find(self, picture: Image.Image, words: str, field: str = "words") -> SoftMask:
        """The union of all that ``words`` name in an RGB picture. See :meth:`find_in`."""
        return await self.find_in(self.views(picture), words, field)

    async def find_in(self, views: Views, words: str, field: str = "words") -> SoftMask:
        """The union of all that ``words`` name: at each pixel the highest of their probabilities.

        Phrases that are nowhere in the picture add nothing; where none is left the mask is zero.

        Raises:
            InvalidRequest: naming ``field``, for no words or too many of them.
        """
        phrases = phrases_of(words, field)
        if self._doubts is not None:
            there = await self._doubts.there(views.pixels, phrases)
            phrases = tuple(phrase for phrase, found in zip(phrases, there, strict=True) if found)
        if not phrases:
            return SoftMask(np.zeros((views.height, views.width), np.float32), *views.size)
        maps = await self.maps(views, phrases)
        return await asyncio.to_thread(self._united, maps, views)

    async def maps(self, views: Views, phrases: tuple[str, ...]) -> Map:
        """Probabilities ``[phrases, height, width]`` of the scaled picture."""
        found = await self._network.masks(views.pixels, phrases)
        return await asyncio.to_thread(
            lambda: np.stack([views.stitch(found[:, index]) for index in range(len(phrases))])
        )

    def _united(self, maps: Map, views: Views) -> SoftMask:
        flat = maps.reshape(len(maps), -1)
        num = min(max(1, round(_PEAK_SHARE * views.side**2)), flat.shape[1])
        peaks = np.partition(flat, -num, axis=1)[:, -num:].mean(axis=1)
        there = peaks >= self._empty_below
        return SoftMask((maps * there[:, None, None]).max(axis=0), *views.size)

    def close(self) -> None:
        """Let the network's thread end."""
        self._network.close()
