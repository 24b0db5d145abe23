"""A thing that the whole picture does not show has no mask, whatever its pixels look like."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.doubts import Doubts
from deployments.pipeline.perception.families import DoubtFacts
from deployments.pipeline.perception.masks import MaskFinder
from tests.deployments.pipeline.perception.pictures import ColourNetwork, discs

FACTS = (DoubtFacts(words=("red", "crimson"), present=("red",), absent=("blue",)),)
BLUE_WITH_RED = discs((128, 128), ("blue", 64, 64, 50), ("red", 20, 20, 12))
RED = discs((128, 128), ("red", 64, 64, 50))


@pytest.fixture
def finder() -> MaskFinder:
    network = ColourNetwork()
    return MaskFinder(network, empty_below=0.5, doubts=Doubts(ZeroShot(network), FACTS))


async def test_a_doubted_word_needs_the_whole_pictures_word_for_it(finder: MaskFinder) -> None:
    assert (await finder.find(RED, "red")).found().coverage > 0.3
    assert (await finder.find(BLUE_WITH_RED, "red")).found().coverage == 0
    assert (await finder.find(BLUE_WITH_RED, "blue")).found().coverage > 0.3


async def test_what_is_not_doubted_is_still_found_beside_it(finder: MaskFinder) -> None:
    both = await finder.find(BLUE_WITH_RED, "red and blue")
    blue = await finder.find(BLUE_WITH_RED, "blue")
    np.testing.assert_array_equal(both.pixels(), blue.pixels())


async def test_the_last_word_of_a_phrase_is_the_thing() -> None:
    doubts = Doubts(ZeroShot(ColourNetwork()), FACTS)
    views = np.asarray(BLUE_WITH_RED.resize((64, 64)))[None]
    assert await doubts.there(views, ("dark crimson", "red", "red blue")) == [False, False, True]
