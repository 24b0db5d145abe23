from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from core.errors import InvalidRequest, MissingPart
from core.settings import SafetySettings
from core.specs import MaskSpec
from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.checks import ZeroShotCheck
from deployments.pipeline.perception.faces import DrawnFaces
from deployments.pipeline.perception.families import DrawnFaceFacts
from deployments.pipeline.perception.masks import MaskFinder
from deployments.pipeline.perception.perceiver import Missing, Parts, Perceiver
from tests.deployments.pipeline.perception.pictures import ColourNetwork, discs, png

FACES = DrawnFaceFacts(word="red", min_area=0.01, people=("grey",), others=("blue",))
PORTRAIT = png(discs((128, 96), ("red", 64, 40, 20)))


@pytest.fixture
def network() -> ColourNetwork:
    return ColourNetwork()


@pytest_asyncio.fixture
async def perceiver(network: ColourNetwork) -> AsyncIterator[Perceiver]:
    masks, zero_shot = MaskFinder(network, empty_below=0.5), ZeroShot(network)
    check = ZeroShotCheck(zero_shot, SafetySettings(concepts=("green",)), ("grey", "blue"))
    made = Perceiver(Parts(masks, zero_shot, DrawnFaces(masks, zero_shot, FACES), check), max_pixels=100_000)
    yield made
    made.close()


def spec(words: str, image: bytes = PORTRAIT) -> MaskSpec:
    return MaskSpec(request_id="r", image=image, words=words)


async def test_a_mask_of_a_picture_file(perceiver: Perceiver) -> None:
    found = await perceiver.mask(spec("red"))
    with Image.open(io.BytesIO(found.mask)) as mask:
        assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (128, 96))
        assert np.asarray(mask)[40, 64] > 200
    assert (found.width, found.height) == (128, 96)
    assert 0.05 < found.coverage < 0.15


async def test_words_that_match_nothing_are_told_by_the_coverage(perceiver: Perceiver) -> None:
    assert (await perceiver.mask(spec("giraffe"))).coverage == 0


async def test_an_exif_rotated_picture_is_seen_upright(perceiver: Perceiver) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    discs((128, 96), ("red", 20, 48, 12)).save(file, "JPEG", quality=95, exif=exif)
    found = await perceiver.mask(spec("red", file.getvalue()))
    assert (found.width, found.height) == (96, 128)
    with Image.open(io.BytesIO(found.mask)) as mask:
        assert np.asarray(mask)[20, 48] > 200


async def test_a_picture_is_described_whole(perceiver: Perceiver, network: ColourNetwork) -> None:
    long = png(discs((400, 40), ("red", 380, 20, 20)))
    answers = await perceiver.describe(long, {"ground": ("grey", "blue")})
    assert answers["ground"]["grey"] > 0.9
    assert network.views_seen == [1]


async def test_faces_are_counted(perceiver: Perceiver) -> None:
    (face,) = await perceiver.faces(PORTRAIT)
    assert abs(face.box.left + face.box.width / 2 - 64) < 4
    assert await perceiver.faces(png(discs((64, 64)))) == ()


async def test_each_picture_gets_its_verdict(perceiver: Perceiver) -> None:
    verdicts = await perceiver.moderate((PORTRAIT, png(discs((40, 40), ground="green")), PORTRAIT))
    assert [verdict.blocked for verdict in verdicts] == [False, True, False]
    assert await perceiver.moderate(()) == ()


async def test_many_requests_at_once_are_answered_as_alone(perceiver: Perceiver) -> None:
    pictures = [png(discs((40 + 9 * index, 50), ("red", 20, 20, 10))) for index in range(6)]
    together = await asyncio.gather(*(perceiver.mask(spec("red", picture)) for picture in pictures))
    assert together == [await perceiver.mask(spec("red", picture)) for picture in pictures]


@pytest.mark.parametrize("image", [b"", b"no picture", PORTRAIT[:200], png(Image.new("RGB", (400, 400)))])
async def test_bad_files_are_refused(perceiver: Perceiver, image: bytes) -> None:
    for answer in (perceiver.mask(spec("red", image)), perceiver.describe(image, {"a": ("red",)})):
        with pytest.raises(InvalidRequest) as caught:
            await answer
        assert caught.value.field == "image"
    with pytest.raises(InvalidRequest):
        await perceiver.faces(image)


async def test_no_words_are_refused(perceiver: Perceiver) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await perceiver.mask(spec(" "))
    assert caught.value.field == "words"


async def test_what_is_missing_is_told(network: ColourNetwork) -> None:
    missing = Missing("Install it.")
    perceiver = Perceiver(Parts(missing, missing, missing, missing))
    for answer in (
        perceiver.mask(spec("red")),
        perceiver.describe(PORTRAIT, {"a": ("red",)}),
        perceiver.faces(PORTRAIT),
        perceiver.moderate(()),
    ):
        with pytest.raises(MissingPart, match="Install it") as caught:
            await answer
        assert caught.value.status == 409
    perceiver.close()


async def test_closing_closes_the_network(perceiver: Perceiver, network: ColourNetwork) -> None:
    perceiver.close()
    assert network.closed
