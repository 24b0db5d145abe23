"""What is found out about a portrait before anything is painted: one face, its mask, the words for it.

Perception answers; nothing of its answers outlives the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from core.errors import InvalidRequest
from core.specs import Box, Face, FoundMask, GenderSwapSpec, MaskSpec, SwapScope
from core.uploads import open_mask, open_picture
from deployments.pipeline.gender_swap.families import FamilyFacts
from deployments.pipeline.gender_swap.portrait import Mask, Pixels, Portrait, pixels_of, portrait_of
from deployments.pipeline.gender_swap.wording import Wording, wording_of


class Perception(Protocol):
    """What finds faces, masks and attributes."""

    async def mask(self, spec: MaskSpec) -> FoundMask: ...
    async def describe(
        self, image: bytes, questions: Mapping[str, tuple[str, ...]]
    ) -> Mapping[str, Mapping[str, float]]: ...
    async def faces(self, image: bytes) -> tuple[Face, ...]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Sitting:
    """A picture of ``width`` × ``height`` pixels, its words, and its portrait where only that is painted."""

    width: int
    height: int
    wording: Wording
    portrait: Portrait | None
    face: Box


async def sit(spec: GenderSwapSpec, facts: FamilyFacts, perception: Perception) -> Sitting:
    """Find out all that painting ``spec`` needs.

    Raises :class:`InvalidRequest` for a picture that cannot be read or does not show exactly one face,
    and what Perception raises.
    """
    pixels = await asyncio.to_thread(lambda: pixels_of(open_picture(spec.image)))
    height, width = pixels.shape[:2]
    face = _only(await perception.faces(spec.image))
    if spec.scope is SwapScope.WHOLE:
        wording = await wording_of(spec, facts, perception.describe)
        return Sitting(width, height, wording, None, face)
    wording, found, kept = await _all_of(
        wording_of(spec, facts, perception.describe),
        _found(spec, facts.painted, perception, (width, height)),
        _found(spec, facts.kept, perception, (width, height)),
    )
    portrait = await asyncio.to_thread(_portrait, pixels, found, kept, face, wording)
    return Sitting(width, height, wording, portrait, face)


def _only(faces: tuple[Face, ...]) -> Box:
    if len(faces) == 1:
        return faces[0].box
    found = f"{len(faces)} faces" if faces else "no face"
    raise InvalidRequest(
        f"A gender swap needs a picture of exactly one face; {found} can be seen in this one.",
        field="image",
        limit=1,
    )


async def _found(
    spec: GenderSwapSpec, words: str, perception: Perception, size: tuple[int, int]
) -> Mask | None:
    """The mask of ``words``; None where there are none, or where they match nothing."""
    if not words:
        return None
    found = await perception.mask(MaskSpec(request_id=spec.request_id, image=spec.image, words=words))
    if not found.coverage:
        return None
    return await asyncio.to_thread(open_mask, found.mask, size=size)


def _portrait(pixels: Pixels, found: Mask | None, kept: Mask | None, face: Box, wording: Wording) -> Portrait:
    return portrait_of(pixels, found, kept, face, wording.hair)


async def _all_of(*works: Coroutine[Any, Any, Any]) -> Any:
    """The results of ``works``, done side by side; the first failure, or a cancellation, ends them all."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
