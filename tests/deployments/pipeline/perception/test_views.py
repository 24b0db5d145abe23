from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.pipeline.perception.views import (
    MAX_VIEWS,
    OVERLAPPING,
    SIDE_BY_SIDE,
    square_views,
    whole_view,
)

SIDE = 16


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    red = np.linspace(0, 255, width).round()[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height).round()[:, None].repeat(width, 1)
    return Image.fromarray(np.dstack([red, green, red * 0]).astype(np.uint8))


def test_a_square_picture_of_the_right_size_is_its_own_view() -> None:
    picture = gradient(SIDE, SIDE)
    views = square_views(picture, SIDE)
    assert np.array_equal(views.pixels[0], np.asarray(picture))
    assert views.corners == ((0, 0),)


def test_a_nearly_square_picture_is_padded_by_its_edges_and_not_squashed() -> None:
    views = square_views(gradient(48, 32), SIDE)
    (view,) = views.pixels
    assert (views.width, views.height) == (16, 11)
    assert views.corners == ((-2, 0),)
    assert np.array_equal(view[0], view[2])
    assert np.array_equal(view[12], view[15])
    assert not np.array_equal(view[2], view[3])


@pytest.mark.parametrize(("size", "num"), [((32, 16), 3), ((16, 40), 3), ((30, 16), 3), ((28, 16), 1)])
def test_a_long_picture_takes_overlapping_views(size: tuple[int, int], num: int) -> None:
    assert len(square_views(gradient(*size), SIDE).pixels) == num


@pytest.mark.parametrize(
    ("size", "corners"),
    [
        ((32, 16), ((0, 0), (0, 16))),
        ((16, 48), ((0, 0), (16, 0), (32, 0))),
        ((326, 160), ((0, 0), (0, 16))),
        ((40, 16), ((0, 0), (0, 12), (0, 24))),
    ],
)
def test_a_row_of_squares_falls_apart_into_them(
    size: tuple[int, int], corners: tuple[tuple[int, int], ...]
) -> None:
    assert square_views(gradient(*size), SIDE, stride=SIDE_BY_SIDE).corners == corners


def test_views_of_a_long_picture_are_parts_of_it() -> None:
    picture = gradient(40, 16)
    views = square_views(picture, SIDE)
    for view, (top, left) in zip(views.pixels, views.corners, strict=True):
        assert np.array_equal(view, np.asarray(picture)[top : top + SIDE, left : left + SIDE])


def test_even_the_longest_picture_takes_few_views() -> None:
    views = square_views(Image.new("RGB", (4_000, 1)), SIDE)
    assert len(views.pixels) == MAX_VIEWS
    assert views.height == 1


def test_the_whole_picture_fits_one_view() -> None:
    views = whole_view(gradient(160, 16), SIDE)
    assert views.pixels.shape == (1, SIDE, SIDE, 3)
    assert (views.width, views.height) == (16, 2)


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from((OVERLAPPING, SIDE_BY_SIDE)))
def test_what_is_cut_into_views_is_stitched_together_again(width: int, height: int, stride: float) -> None:
    picture = gradient(width, height)
    views = square_views(picture, SIDE, stride=stride)
    assert len(views.pixels) <= MAX_VIEWS
    stitched = views.stitch(views.pixels[..., 0].astype(np.float32))
    scaled = picture.resize((views.width, views.height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    assert np.allclose(stitched, np.asarray(scaled)[..., 0], atol=1e-3)


def test_where_views_disagree_the_nearer_one_counts_more() -> None:
    views = square_views(gradient(28, 16), SIDE, max_padded_ratio=1.0)
    assert views.corners == ((0, 0), (0, 12))
    opinions = np.stack([np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE))]).astype(np.float32)
    row = views.stitch(opinions)[8]
    assert np.all(row[:12] == 0)
    assert np.all(row[16:] == 1)
    assert np.all(np.diff(row[11:17]) > 0)


def test_the_nearest_view_is_the_one_around_a_point() -> None:
    views = square_views(gradient(40, 16), SIDE)
    assert [views.nearest(8, x) for x in (4, 20, 36)] == [0, 1, 2]
