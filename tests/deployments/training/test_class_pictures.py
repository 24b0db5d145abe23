from __future__ import annotations

import asyncio

import pytest

from core.errors import InvalidRequest, ModerationBlocked, NotReady
from core.types import Priority
from deployments.training.class_pictures import ClassPictures
from store import keys
from tests.deployments.training.workshop import MODEL, Shelves, SmallPainter, spec_of

SPEC = spec_of(num_class_pictures=6)


def made(shelves: Shelves, *numbers: int) -> list[bytes]:
    return [shelves.blobs.read(keys.class_picture("mini", "woman", number)) for number in numbers]


async def test_missing_pictures_are_drawn_in_the_background(shelves: Shelves) -> None:
    painter = SmallPainter()
    pictures = ClassPictures(shelves.blobs, painter, MODEL)
    assert pictures.missing(SPEC) == [1, 2, 3, 4, 5, 6]
    await pictures.complete(SPEC)
    assert pictures.missing(SPEC) == []
    assert made(shelves, 1, 6) == [b"seed 1", b"seed 6"]
    assert [(spec.seed, spec.num_images) for spec in painter.specs] == [(1, 4), (5, 2)]
    assert {spec.priority for spec in painter.specs} == {Priority.BACKGROUND}
    assert {(spec.prompt, spec.width) for spec in painter.specs} == {("portrait of a woman", 128)}


async def test_only_what_is_missing_is_drawn(shelves: Shelves) -> None:
    for number in (2, 5):
        shelves.blobs.write(keys.class_picture("mini", "woman", number), b"old")
    painter = SmallPainter()
    await ClassPictures(shelves.blobs, painter, MODEL).complete(SPEC)
    assert [(spec.seed, spec.num_images) for spec in painter.specs] == [(1, 1), (3, 2), (6, 1)]
    assert made(shelves, 2, 4) == [b"old", b"seed 4"]


async def test_two_trainings_of_a_class_share_its_pictures(shelves: Shelves) -> None:
    painter = SmallPainter()
    pictures = ClassPictures(shelves.blobs, painter, MODEL)
    await asyncio.gather(pictures.complete(SPEC), pictures.complete(spec_of(num_class_pictures=6)))
    assert len(painter.specs) == 2


async def test_without_their_weight_none_are_wanted(shelves: Shelves) -> None:
    pictures = ClassPictures(shelves.blobs, SmallPainter(), MODEL)
    assert pictures.missing(spec_of(num_class_pictures=6, prior_weight=0.0)) == []


async def test_a_pipeline_that_is_starting_is_waited_for(shelves: Shelves) -> None:
    painter = SmallPainter(NotReady("starting", retry_after_s=0.001), NotReady("", retry_after_s=0.001))
    pictures = ClassPictures(shelves.blobs, painter, MODEL)
    await pictures.complete(SPEC)
    assert pictures.missing(SPEC) == []


async def test_blocked_pictures_are_replaced(shelves: Shelves) -> None:
    blocked = ModerationBlocked("no")
    painter = SmallPainter(blocked, blocked)
    await ClassPictures(shelves.blobs, painter, MODEL).complete(spec_of(num_class_pictures=2))
    assert made(shelves, 1, 2) == [b"seed 200001", b"seed 100002"]


async def test_a_picture_that_is_always_blocked_is_left_out(shelves: Shelves) -> None:
    pictures = ClassPictures(shelves.blobs, SmallPainter(*[ModerationBlocked("no")] * 6), MODEL)
    await pictures.complete(spec_of(num_class_pictures=2))
    assert pictures.missing(spec_of(num_class_pictures=2)) == [1]


async def test_a_refusal_is_told(shelves: Shelves) -> None:
    with pytest.raises(InvalidRequest):
        await ClassPictures(shelves.blobs, SmallPainter(InvalidRequest("no")), MODEL).complete(SPEC)
