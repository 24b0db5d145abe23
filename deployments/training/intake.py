"""From the photos of a request to what is trained on: decoded, framed, judged, and made small.

Knows files, pixels and Perception; not where the results are kept.
"""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass

from PIL import Image

from core.errors import InvalidRequest
from core.specs import Box
from core.training import MAX_PHOTOS, MIN_PHOTOS, TrainingSpec
from core.uploads import DEFAULT_MAX_PIXELS, open_picture
from deployments.training.framing import Perceiving, framed
from deployments.training.photos import Look, look_at, warnings_about

MAX_SIDE = 1024
_FIELD = "photos"
# Nothing can be learnt from less, in pixels.
_MIN_SIDE = 32
# Each is a decoded picture, 150 MB at 50 megapixels.
_NUM_OPEN = 2


@dataclass(frozen=True, slots=True)
class TakenIn:
    """Square PNG files of at most ``MAX_SIDE`` pixels in the order of the photos, and what is wrong."""

    files: tuple[bytes, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Photo:
    file: bytes
    look: Look
    warnings: tuple[str, ...]


class Intake:
    """Prepares photos, a few at a time over all requests."""

    def __init__(self, perception: Perceiving, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        self._perception = perception
        self._max_pixels = max_pixels
        self._open = asyncio.Semaphore(_NUM_OPEN)

    async def take_in(self, spec: TrainingSpec, model_side: int) -> TakenIn:
        """The photos of ``spec``, upright, in sRGB, without metadata, each cropped to its subject.

        ``model_side`` is that of the pictures that the model draws, in pixels.

        Raises:
            InvalidRequest: for a file that is no picture, naming its number, and for too few or too many.
            LimnerError: what keeps Perception from answering.
        """
        if not MIN_PHOTOS <= len(spec.photos) <= MAX_PHOTOS:
            raise InvalidRequest(
                f"A training takes {MIN_PHOTOS} to {MAX_PHOTOS} photos; there are {len(spec.photos)}.",
                field=_FIELD,
                limit={"minimum": MIN_PHOTOS, "maximum": MAX_PHOTOS},
            )
        numbered = enumerate(spec.photos, 1)
        begun = [
            asyncio.ensure_future(self._photo(number, data, spec, model_side)) for number, data in numbered
        ]
        try:
            photos = await asyncio.gather(*begun)
        finally:
            for photo in begun:
                photo.cancel()
        warnings = warnings_about([photo.look for photo in photos], model_side)
        for number, taken in enumerate(photos, 1):
            warnings += [f"Photo {number} {what}." for what in taken.warnings]
        return TakenIn(tuple(photo.file for photo in photos), tuple(warnings))

    async def _photo(self, number: int, data: bytes, spec: TrainingSpec, model_side: int) -> _Photo:
        async with self._open:
            picture = await asyncio.to_thread(self._opened, number, data)
            found = await framed(
                picture,
                spec.subject,
                self._perception,
                model_side=model_side,
                request_id=spec.request_id,
            )
            look = await asyncio.to_thread(look_at, picture, found.crop, model_side)
            file = await asyncio.to_thread(_square_file, picture, found.crop)
        return _Photo(file, look, found.warnings)

    def _opened(self, number: int, data: bytes) -> Image.Image:
        try:
            picture = open_picture(data, field=_FIELD, max_pixels=self._max_pixels)
        except InvalidRequest as error:
            raise InvalidRequest(
                f"Photo {number}: {error.message}", field=_FIELD, limit=error.limit
            ) from error
        if min(picture.size) < _MIN_SIDE:
            width, height = picture.size
            raise InvalidRequest(
                f"Photo {number}: it has {width} × {height} pixels; both sides need {_MIN_SIDE}.",
                field=_FIELD,
                limit=_MIN_SIDE,
            )
        return picture


def _square_file(picture: Image.Image, crop: Box) -> bytes:
    """The square ``crop`` of the picture as a PNG of at most ``MAX_SIDE`` pixels."""
    shown = picture.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    if crop.width > MAX_SIDE:
        shown = shown.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    shown.save(file, "PNG", compress_level=4)
    return file.getvalue()
