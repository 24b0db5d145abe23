"""Into the model's size and back: nothing distorted, nothing changed outside the mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.specs import Box
from core.types import ModelInfo
from deployments.pipeline.inpainting import canvas, masks
from weights import registry

INFO: ModelInfo = replace(registry.info("mini"), default_size=32, max_size=64, size_multiple=8)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 90), st.integers(1, 90), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_outside_the_feathered_mask_the_picture_is_bit_identical(
    data: st.DataObject, width: int, height: int, grow: int, feather: int, only_masked: bool
) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    picture = generator.integers(0, 256, (height, width, 3), np.uint8)
    drawn = data.draw(arrays(np.float32, (height, width), elements=st.floats(0, 1, width=32)))
    drawn[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = 1
    mask = masks.feathered(masks.grown(drawn, grow), feather)
    box = canvas.around(mask, 4, INFO) if only_masked else canvas.whole(picture)
    working = canvas.working_on(box, INFO)
    shown = working.shown(picture)
    part = mask[canvas.slices(box)]
    result = working.pasted(picture, 255 - shown, part)
    assert result.shape == picture.shape
    assert np.array_equal(result[mask == 0], picture[mask == 0])
    assert not mask[np.setdiff1d(np.arange(height), np.arange(height)[canvas.slices(box)[0]])].any()
    # Where the mask is 1, only what the model made is seen.
    everywhere = working.pasted(picture, 255 - shown, np.ones_like(part))
    assert np.array_equal(result[mask == 1], everywhere[mask == 1])


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8_000), st.integers(1, 8_000))
def test_a_picture_of_any_size_fits_the_model_undistorted(width: int, height: int) -> None:
    working = canvas.working_on(Box(left=0, top=0, width=width, height=height), INFO)
    fitted = working.fitted
    assert fitted.padded_width % 8 == fitted.padded_height % 8 == 0
    assert max(fitted.padded_width, fitted.padded_height) <= INFO.max_size
    assert fitted.width * fitted.height <= INFO.default_size**2
    if min(fitted.width, fitted.height) > 1:
        assert abs(fitted.width - width / working.scale) <= 0.5 + 1e-6
        assert abs(fitted.height - height / working.scale) <= 0.5 + 1e-6


def test_a_picture_of_the_models_own_size_is_shown_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    working = canvas.working_on(canvas.whole(picture), INFO)
    assert np.array_equal(working.shown(picture), picture)
    painted = np.zeros_like(picture)
    half = np.full((32, 32), 0.5, np.float32)
    assert np.array_equal(working.pasted(picture, painted, half), np.rint(picture / 2).astype(np.uint8))


def test_padding_repeats_the_edge_and_its_mask() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[-1] = 200
    mask = np.zeros((20, 30), np.float32)
    mask[-1, :16] = 1
    working = canvas.working_on(canvas.whole(picture), INFO, 600)
    assert working.shown(picture).shape == (24, 32, 3)
    assert np.array_equal(working.shown(picture)[:20, :30], picture)
    assert (working.shown(picture)[20:] == 200).all()
    region = working.region(mask, 4)
    assert region.shape == (6, 8)
    assert region[4:, :4].all()
    assert not region[:4].any()
    assert not region[:, 4:].any()


@pytest.mark.parametrize(
    ("left", "top", "size", "expected"),
    [
        (50, 50, 10, Box(left=39, top=39, width=32, height=32)),
        (0, 90, 10, Box(left=0, top=68, width=32, height=32)),
        (10, 40, 60, Box(left=6, top=36, width=68, height=64)),
    ],
)
def test_the_surroundings_are_at_least_the_models_size_and_stay_in_the_picture(
    left: int, top: int, size: int, expected: Box
) -> None:
    mask = np.zeros((100, 100), np.float32)
    mask[top : top + size, left : left + size] = 1
    assert canvas.around(mask, 4, INFO) == expected


def test_the_surroundings_of_a_long_mask_are_not_much_longer_than_wide() -> None:
    mask = np.zeros((400, 400), np.float32)
    mask[200, 50:350] = 1
    box = canvas.around(mask, 0, INFO)
    assert (box.width, box.height) == (300, 200)
    assert box.top <= 200 < box.top + box.height


def test_large_pictures_are_blended_band_by_band() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (1_500, 1_000, 3), np.uint8)
    mask = np.zeros((1_500, 1_000), np.float32)
    mask[1_200:1_400, 100:900] = 1
    working = canvas.working_on(canvas.whole(picture), INFO)
    result = working.pasted(picture, np.full((64, 64, 3), 7, np.uint8), mask)
    assert (result[mask == 1] == 7).all()
    assert np.array_equal(result[mask == 0], picture[mask == 0])
