from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from core.errors import MissingPart
from core.specs import Box, Face, FoundMask
from deployments.training.framing import Framed, Perceiving, framed, shows_people
from tests.fakes import FakePerception

WIDE = Image.new("RGB", (400, 200), "grey")


def face(left: int, top: int, side: int) -> Face:
    return Face(box=Box(left=left, top=top, width=side, height=side), score=0.9)


def mask(box: tuple[int, int, int, int]) -> FoundMask:
    picture = Image.new("L", WIDE.size)
    picture.paste(255, box)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return FoundMask(mask=file.getvalue(), coverage=0.1, width=400, height=200)


async def frame(perception: Perceiving, subject: str, picture: Image.Image = WIDE) -> Framed:
    return await framed(picture, subject, perception, model_side=64, request_id="r")


class Unable(FakePerception):
    """A model without a network for either question."""

    async def faces(self, image: bytes) -> tuple[Face, ...]:
        raise MissingPart("no faces")


@pytest.mark.parametrize(("subject", "people"), [("old Man", True), ("robot", False), ("mandrill", False)])
def test_who_has_a_face(subject: str, people: bool) -> None:
    assert shows_people(subject) == people


async def test_people_are_framed_by_their_face() -> None:
    perception = FakePerception(faces=[face(300, 60, 60)])
    found = await frame(perception, "woman")
    assert found == Framed(Box(left=200, top=0, width=200, height=200))
    assert perception.asked == ["faces"]


async def test_the_largest_of_several_faces_is_taken() -> None:
    found = await frame(FakePerception(faces=[face(0, 0, 60), face(320, 60, 70)]), "man")
    assert found.crop.left == 200
    assert found.warnings == ("shows 2 faces; the largest is used",)


async def test_other_subjects_are_framed_by_their_mask() -> None:
    perception = FakePerception(masks={"robot": mask((300, 80, 340, 120))})
    found = await frame(perception, "robot")
    assert found == Framed(Box(left=288, top=68, width=64, height=64))
    assert perception.asked == ["mask"]


@pytest.mark.parametrize("subject", ["woman", "robot"])
async def test_what_is_not_found_is_looked_for_in_the_middle(subject: str) -> None:
    found = await frame(FakePerception(), subject)
    assert found.crop == Box(left=100, top=0, width=200, height=200)
    assert "not" not in found.warnings[0]
    assert "middle" in found.warnings[0]


async def test_a_model_without_the_network_takes_the_middle() -> None:
    found = await frame(Unable(), "woman")
    assert found.crop.left == 100
    assert "by this model" in found.warnings[0]


async def test_boxes_of_a_large_picture_are_scaled_back() -> None:
    large = Image.fromarray(np.zeros((3072, 3072, 3), np.uint8))
    found = await frame(FakePerception(faces=[face(800, 800, 100)]), "woman", large)
    assert found.crop == Box(left=2100, top=2100, width=900, height=900)
