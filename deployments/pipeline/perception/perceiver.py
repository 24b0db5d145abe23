"""All that Perception answers, from picture files to plain values. Knows which parts a model has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from core.errors import MissingPart
from core.specs import Face, FoundMask, MaskSpec, Verdict
from core.uploads import DEFAULT_MAX_PIXELS, open_picture
from deployments.pipeline.perception.attributes import Answers, ZeroShot
from deployments.pipeline.perception.checks import PictureCheck, views_of
from deployments.pipeline.perception.faces import FaceDetector
from deployments.pipeline.perception.masks import MaskFinder
from deployments.pipeline.perception.views import whole_view

Result = TypeVar("Result")

# Each holds one decoded picture, 150 MB at 50 megapixels.
_NUM_OPEN = 2


@dataclass(frozen=True, slots=True)
class Missing:
    """A part that a model has not got, and what to do about it."""

    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What answers the questions about pictures."""

    masks: MaskFinder | Missing
    zero_shot: ZeroShot | Missing
    faces: FaceDetector[Any] | Missing
    check: PictureCheck | Missing


class Perceiver:
    """Masks, attributes, faces and verdicts. Files are opened and made in threads, not in the event loop."""

    def __init__(self, parts: Parts, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        self._parts = parts
        self._max_pixels = max_pixels
        self._executor = ThreadPoolExecutor(max_workers=_NUM_OPEN, thread_name_prefix="pictures")

    async def mask(self, spec: MaskSpec) -> FoundMask:
        """Where ``spec.words`` are. Coverage 0 if they are nowhere.

        Raises :class:`InvalidRequest` for ``image`` or ``words``, :class:`MissingPart`.
        """
        finder = _present(self._parts.masks)
        views = await self._in_thread(lambda: finder.views(self._open(spec.image)))
        found = await finder.find_in(views, spec.words)
        return await self._in_thread(found.found)

    async def describe(self, image: bytes, questions: Mapping[str, tuple[str, ...]]) -> Answers:
        """For each question the probabilities of its phrases, which add up to 1.

        Raises :class:`InvalidRequest`, :class:`MissingPart`.
        """
        zero_shot = _present(self._parts.zero_shot)
        views = await self._in_thread(lambda: whole_view(self._open(image), zero_shot.side))
        (answers,) = await zero_shot.describe(views.pixels, questions)
        return answers

    async def faces(self, image: bytes) -> tuple[Face, ...]:
        """The faces of people, the surest first. Raises :class:`InvalidRequest`, :class:`MissingPart`."""
        detector = _present(self._parts.faces)
        seen = await self._in_thread(lambda: detector.look(self._open(image)))
        return await detector.find(seen)

    async def moderate(self, pictures: tuple[bytes, ...]) -> tuple[Verdict, ...]:
        """One verdict per picture file, in order. Raises :class:`MissingPart`, even without pictures."""
        check = _present(self._parts.check)

        async def judged(picture: bytes) -> Verdict:
            views = await self._in_thread(lambda: views_of(self._open(picture), check))
            return await check.verdict(views)

        return tuple(await asyncio.gather(*map(judged, pictures)))

    def close(self) -> None:
        """Let the threads end once what they do is done."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for part in (self._parts.masks, self._parts.check):
            if not isinstance(part, Missing):
                part.close()

    def _open(self, image: bytes) -> Image.Image:
        return open_picture(image, max_pixels=self._max_pixels)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _present(part: Result | Missing) -> Result:
    if isinstance(part, Missing):
        raise MissingPart(part.message)
    return part
