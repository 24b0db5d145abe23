"""The classical fill: smooth inside, untouched outside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deployments.pipeline.inpainting.filling import from_surroundings, matched

SIDES = st.integers(1, 17)


@settings(max_examples=60, deadline=None)
@given(st.data(), SIDES, SIDES)
def test_only_the_hole_changes_and_within_the_colours_around_it(
    data: st.DataObject, width: int, height: int
) -> None:
    pixels = data.draw(arrays(np.uint8, (height, width, 3)))
    hole: npt.NDArray[np.bool_] = data.draw(arrays(np.bool_, (height, width)))
    filled = from_surroundings(pixels, hole)
    assert np.array_equal(filled[~hole], pixels[~hole])
    if hole.any() and not hole.all():
        known = pixels[~hole]
        assert (filled[hole] >= known.min(axis=0)).all()
        assert (filled[hole] <= known.max(axis=0)).all()


def test_a_hole_in_a_flat_colour_disappears() -> None:
    pixels = np.full((40, 30, 3), (200, 30, 90), np.uint8)
    broken = pixels.copy()
    broken[5:33, 4:25] = 0
    hole = (broken == 0).all(axis=-1)
    assert np.array_equal(from_surroundings(broken, hole), pixels)


def test_a_gradient_goes_on_through_the_hole() -> None:
    ramp = np.tile(np.linspace(0, 255, 64), (64, 1))
    pixels = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[20:44, 20:44] = True
    broken = np.where(hole[..., None], 255, pixels).astype(np.uint8)
    error = from_surroundings(broken, hole).astype(int) - pixels
    assert np.abs(error).max() <= 24


def test_a_hole_that_is_everything_becomes_grey() -> None:
    filled = from_surroundings(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool))
    assert (filled == 128).all()


def test_a_tone_that_is_off_inside_the_hole_is_moved_to_that_around_it() -> None:
    drawn = np.random.default_rng(0).integers(60, 180, (40, 50, 3), np.uint8)
    hole = np.zeros((40, 50), bool)
    hole[:, 30:] = True
    off = np.where(hole[..., None], drawn + np.uint8(25), drawn)
    assert np.array_equal(matched(off, drawn, hole), drawn)


def test_what_is_drawn_is_kept_where_the_rim_is_as_it_should_be() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    hole = np.zeros((20, 20), bool)
    hole[5:15, 5:15] = True
    shown = drawn.copy()
    shown[8:12, 8:12] = 0
    assert np.array_equal(matched(drawn, shown, hole), drawn)


def test_a_hole_without_surroundings_keeps_its_tone() -> None:
    drawn = np.full((4, 4, 3), 9, np.uint8)
    assert matched(drawn, drawn + np.uint8(9), np.ones((4, 4), bool)) is drawn
