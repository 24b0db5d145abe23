"""Finds what a photo is about: the face of a person, or whatever else the subject's word names."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from core.errors import MissingPart
from core.specs import Box, Face, FoundMask, MaskSpec
from deployments.training import crop

# Larger pictures are asked about at this size: detectors work at less.
_ASKED_SIDE = 1024
_PEOPLE = {
    "person", "people", "human", "adult", "teenager", "child", "kid", "toddler", "baby", "man", "woman",
    "boy", "girl", "guy", "lady", "gentleman", "bride", "groom", "actor", "actress", "face",
}  # fmt: skip


class Perceiving(Protocol):
    """What is asked of Perception. Each may raise :class:`MissingPart`."""

    async def faces(self, image: bytes) -> tuple[Face, ...]: ...

    async def mask(self, spec: MaskSpec) -> FoundMask: ...


@dataclass(frozen=True, slots=True)
class Framed:
    """The square to train on, in pixels of the picture, and what the member should know about it."""

    crop: Box
    warnings: tuple[str, ...] = ()


def shows_people(subject: str) -> bool:
    """Whether pictures of ``subject`` are about a face."""
    return not _PEOPLE.isdisjoint(subject.casefold().split())


async def framed(
    picture: Image.Image, subject: str, perception: Perceiving, *, model_side: int, request_id: str
) -> Framed:
    """The square of ``picture`` that shows ``subject``; its middle where nothing of the kind is found."""
    asked = await asyncio.to_thread(_small_file, picture)
    factor = max(picture.size) / min(_ASKED_SIDE, max(picture.size))
    people = shows_people(subject)
    try:
        if people:
            found, warnings = _largest_face(await perception.faces(asked))
        else:
            mask = await perception.mask(MaskSpec(request_id=request_id, image=asked, words=subject))
            found, warnings = await asyncio.to_thread(_masked, mask, subject)
    except MissingPart:
        found, warnings = None, ("cannot be searched for its subject by this model; its middle is used",)
    box = None if found is None else crop.scaled(found, factor, picture.size)
    # Beyond the model's own size zooming shows nothing new; a face is worth some blur.
    zoom, min_side = (crop.FACE, model_side // 2) if people else (crop.THING, model_side)
    return Framed(crop.square_at(picture.size, box, zoom, min_side=min_side), warnings)


def _largest_face(faces: tuple[Face, ...]) -> tuple[Box | None, tuple[str, ...]]:
    if not faces:
        return None, ("shows no face that was found; its middle is used",)
    boxes = sorted((face.box for face in faces), key=lambda box: -box.width * box.height)
    several = (f"shows {len(boxes)} faces; the largest is used",) if len(boxes) > 1 else ()
    return boxes[0], several


def _masked(found: FoundMask, subject: str) -> tuple[Box | None, tuple[str, ...]]:
    box = None
    if found.coverage > 0:
        with Image.open(io.BytesIO(found.mask)) as mask:
            box = crop.box_of(np.asarray(mask.convert("L")))
    return box, () if box else (f"shows no {subject} that was found; its middle is used",)


def _small_file(picture: Image.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((_ASKED_SIDE, _ASKED_SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    small.save(file, "PNG", compress_level=1)
    return file.getvalue()
