from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from deployments.pipeline.perception.regions import Mask, regions_of


def drawn(*rows: str) -> Mask:
    return np.array([[character == "#" for character in row] for row in rows])


def flooded(mask: Mask) -> int:
    """How many regions there are, counted by flooding them one after the other."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    num = 0
    while left:
        num += 1
        open_ends = [left.pop()]
        while open_ends:
            y, x = open_ends.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            open_ends.extend(near)
    return num


def test_regions_come_largest_first_with_their_boxes() -> None:
    first, second, third = regions_of(drawn("##..#", "#...#", "...##", "#...."))
    assert (first.area, first.top, first.left, first.bottom, first.right) == (4, 0, 3, 3, 5)
    assert (second.area, second.bottom, second.right) == (3, 2, 2)
    assert (third.area, third.top, third.left) == (1, 3, 0)


def test_arms_that_meet_below_are_one_region() -> None:
    (region,) = regions_of(drawn("#.#.#", "#.#.#", "#####"))
    assert region.area == 11


def test_small_regions_are_left_out() -> None:
    assert [region.area for region in regions_of(drawn("##.#", "##.."), min_area=2)] == [4]


def test_an_empty_mask_has_no_regions() -> None:
    assert regions_of(np.zeros((4, 4), bool)) == []


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.booleans()))
def test_regions_are_those_that_flooding_finds(mask: Mask) -> None:
    regions = regions_of(mask)
    assert len(regions) == flooded(mask)
    total = sum((region.where.astype(int) for region in regions), np.zeros(mask.shape, int))
    assert np.array_equal(total, mask.astype(int))
    assert all(flooded(region.where) == 1 for region in regions)
