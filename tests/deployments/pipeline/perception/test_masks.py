from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import InvalidRequest
from deployments.pipeline.perception.masks import MaskFinder, SoftMask
from deployments.pipeline.perception.network import ClipSeg
from tests.deployments.pipeline.perception.pictures import ColourNetwork, covered, discs
from tests.tiny_perception import FACTS

SIZES = [(64, 64), (90, 64), (256, 128), (60, 300), (7, 5), (1, 1), (1, 40)]


@pytest.fixture
def network() -> ColourNetwork:
    return ColourNetwork()


@pytest.fixture
def finder(network: ColourNetwork) -> MaskFinder:
    return MaskFinder(network, empty_below=0.5)


@pytest.mark.parametrize("size", SIZES)
async def test_a_mask_has_the_size_of_its_picture(finder: MaskFinder, size: tuple[int, int]) -> None:
    soft = await finder.find(Image.new("RGB", size, (220, 20, 20)), "red")
    assert soft.pixels().shape == (size[1], size[0])
    assert soft.pixels().dtype == np.float32
    found = soft.found()
    assert (found.width, found.height, found.coverage) == (*size, 1.0)


@pytest.mark.parametrize(
    ("size", "x", "y"),
    [((128, 128), 40, 90), ((128, 96), 100, 30), ((320, 128), 250, 60), ((100, 400), 50, 333)],
)
async def test_the_mask_lies_where_the_thing_is(
    finder: MaskFinder, size: tuple[int, int], x: int, y: int
) -> None:
    radius = 24
    found = (await finder.find(discs(size, ("red", x, y, radius)), "red")).found()
    mask = np.asarray(Image.open(io.BytesIO(found.mask)))
    assert mask.dtype == np.uint8
    ys, xs = np.nonzero(mask >= 128)
    assert abs(xs.mean() - x) < 2
    assert abs(ys.mean() - y) < 2
    assert found.coverage == pytest.approx(covered(size, [(x, y, radius)]), rel=0.15)
    assert found.coverage == (mask >= 128).mean()


async def test_several_words_are_united(finder: MaskFinder) -> None:
    placed = (("red", 30, 30, 20), ("blue", 90, 90, 25), ("green", 30, 90, 10))
    picture = discs((128, 128), *placed)
    red, blue, both = [
        (await finder.find(picture, words)).pixels() for words in ("red", "blue", "the red and the blue")
    ]
    assert np.array_equal(both, np.maximum(red, blue))
    assert both[90, 30] < 0.5 < both[90, 90]


async def test_words_that_match_nothing_give_an_empty_mask(finder: MaskFinder) -> None:
    soft = await finder.find(discs((64, 64), ("red", 32, 32, 20)), "giraffe")
    assert soft.found().coverage == 0
    assert not soft.pixels().any()


async def test_words_that_match_nothing_add_nothing_to_the_others(finder: MaskFinder) -> None:
    picture = discs((64, 64), ("red", 32, 32, 20))
    red = await finder.find(picture, "red")
    both = await finder.find(picture, "red, giraffe")
    assert np.array_equal(red.map, both.map)


async def test_a_speck_is_nothing() -> None:
    finder = MaskFinder(ColourNetwork(), empty_below=0.6)
    picture = discs((32, 32))
    picture.putpixel((5, 5), (220, 20, 20))
    assert not (await finder.find(picture, "red")).pixels().any()
    picture.paste((220, 20, 20), (5, 5, 8, 8))
    assert (await finder.find(picture, "red")).pixels()[6, 6] > 0.5


async def test_the_level_of_emptiness_is_the_highest_probability() -> None:
    picture = discs((32, 32))
    for background, empty in ((0.49, True), (0.51, False)):
        finder = MaskFinder(ColourNetwork(background=background), empty_below=0.5)
        soft = await finder.find(picture, "fog")
        assert (not soft.pixels().any()) is empty


async def test_no_words_are_refused(finder: MaskFinder, network: ColourNetwork) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await finder.find(discs((32, 32)), " , ", field="mask_prompt")
    assert caught.value.field == "mask_prompt"
    assert network.views_seen == []


def test_a_soft_mask_stays_soft() -> None:
    soft = SoftMask(np.array([[0.0, 1.0]], np.float32), width=64, height=8)
    assert np.all(np.diff(soft.pixels()[0]) >= 0)
    assert len(np.unique(soft.pixels()[0])) > 10
    assert soft.found().coverage == 0.5


async def test_masks_of_a_real_network_do_not_depend_on_company(tokenizer: Any, clipseg: Any) -> None:
    network = ClipSeg(tokenizer, clipseg, FACTS, max_batch=8)
    finder = MaskFinder(network, empty_below=0.01)
    asked = [
        (discs((64, 64), ("red", 20, 20, 12)), "cat, dog"),
        (discs((100, 40), ("blue", 50, 20, 12)), "man"),
        (discs((64, 64), ("red", 20, 20, 12)), "red hair"),
    ]
    together = await asyncio.gather(*(finder.find(picture, words) for picture, words in asked))
    for (picture, words), found in zip(asked, together, strict=True):
        alone = MaskFinder(ClipSeg(tokenizer, clipseg, FACTS), empty_below=0.01)
        assert np.abs(found.map - (await alone.find(picture, words)).map).max() < 1e-3
        alone.close()
    finder.close()
