from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import InvalidRequest, NotReady
from core.specs import Box, Face
from deployments.training.intake import MAX_SIDE, Intake, TakenIn
from tests.deployments.training.workshop import png, spec_of
from tests.fakes import FakePerception

FACE = Face(box=Box(left=40, top=40, width=80, height=80), score=0.9)
COLOURS = [(200, 30, 90), (20, 130, 90), (20, 30, 190), (250, 250, 10)]


async def taken(*photos: bytes, faces: tuple[Face, ...] = (FACE,), model_side: int = 64) -> TakenIn:
    intake = Intake(FakePerception(faces=faces), max_pixels=10_000_000)
    return await intake.take_in(spec_of(photos), model_side)


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


async def test_photos_become_squares_without_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "at home"
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.new("RGB", (200, 160), "red").save(turned, "JPEG", exif=exif)
    found = await taken(turned.getvalue(), png(colour=COLOURS[1]), png((2400, 1600), COLOURS[2]))
    pictures = [opened(file) for file in found.files]
    assert [picture.size for picture in pictures] == [(160, 160), (160, 160), (564, 564)]
    assert all(picture.format == "PNG" and not picture.info and not picture.getexif() for picture in pictures)


async def test_large_crops_are_made_smaller() -> None:
    found = await taken(*(png((1100, 1050), colour) for colour in COLOURS[:3]), faces=())
    assert {opened(file).size for file in found.files} == {(MAX_SIDE, MAX_SIDE)}


async def test_the_same_photo_five_times_is_warned_about() -> None:
    found = await taken(*[png()] * 5)
    assert len(found.files) == 5
    assert found.warnings == ("Photos 1, 2, 3, 4 and 5 are the same picture; different ones teach more.",)


async def test_warnings_name_the_photo() -> None:
    found = await taken(*(png(colour=colour) for colour in COLOURS), faces=())
    assert found.warnings == tuple(
        f"Photo {number} shows no face that was found; its middle is used." for number in (1, 2, 3, 4)
    )


@pytest.mark.parametrize(
    ("photos", "words"),
    [
        ([png()] * 2, "3 to 30"),
        ([png()] * 31, "3 to 30"),
        ([png(), b"not a picture", png()], "Photo 2"),
        ([png(), png(), png()[:200]], "Photo 3"),
        ([png(), png((400, 20)), png()], "both sides"),
        ([png((4000, 3000))] * 3, "10000000 pixels"),
    ],
)
async def test_photos_that_cannot_be_learnt_from_are_refused(photos: list[bytes], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        await taken(*photos)
    assert caught.value.field == "photos"


async def test_perceptions_trouble_is_the_callers() -> None:
    class Starting(FakePerception):
        async def faces(self, image: bytes) -> tuple[Face, ...]:
            raise NotReady("starting")

    with pytest.raises(NotReady):
        await Intake(Starting()).take_in(replace(spec_of(), photos=(png(),) * 3), 64)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(size=st.tuples(st.integers(32, 600), st.integers(32, 600)), model_side=st.integers(16, 700))
async def test_any_size_ends_in_a_square(size: tuple[int, int], model_side: int) -> None:
    found = await taken(*(png(size, colour) for colour in COLOURS[:3]), faces=(), model_side=model_side)
    for file in found.files:
        assert opened(file).size == (min(size), min(size))
    small = [warning for warning in found.warnings if "pixels" in warning]
    assert len(small) == (3 if min(size) < model_side else 0)
