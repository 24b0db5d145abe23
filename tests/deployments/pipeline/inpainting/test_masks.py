"""Mask arithmetic: exact distances, exact zeros, and nothing lost on the way to latents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.errors import InvalidRequest
from core.specs import Box
from deployments.pipeline.inpainting import masks
from deployments.pipeline.inpainting.masks import Mask

SIDES = st.integers(1, 24)
REGIONS = arrays(np.bool_, st.tuples(SIDES, SIDES))


def as_mask(region: npt.NDArray[np.bool_]) -> Mask:
    return region.astype(np.float32)


def distances(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """To the nearest pixel of ``region``, by trying them all."""
    rows, columns = np.indices(region.shape)
    found = np.full(region.shape, np.inf)
    for y, x in zip(*np.nonzero(region), strict=True):
        found = np.minimum(found, np.hypot(rows - y, columns - x))
    return found


@settings(max_examples=60, deadline=None)
@given(REGIONS, st.integers(1, 30))
def test_growing_covers_a_disc_around_every_pixel(region: npt.NDArray[np.bool_], pixels: int) -> None:
    assert np.array_equal(masks.grown(as_mask(region), pixels), distances(region) <= pixels)


def test_growing_by_more_than_sixteen_bits_hold() -> None:
    mask = np.zeros((3, 700), np.float32)
    mask[1, 0] = 1
    wide = masks.grown(mask, 600)
    assert wide[1].sum() == 601
    assert np.array_equal(wide, distances(mask > 0) <= 600)


@settings(max_examples=60, deadline=None)
@given(REGIONS, st.integers(1, 12))
def test_a_feather_rises_inwards_and_leaves_the_outside_at_zero(
    region: npt.NDArray[np.bool_], pixels: int
) -> None:
    soft = masks.feathered(as_mask(region), pixels)
    depth = distances(~region)
    assert np.array_equal(soft > 0, region)
    assert soft.max(initial=0) <= 1
    assert (soft[region & (depth > pixels + 1)] == 1).all()
    order = np.argsort(depth[region])
    assert (np.diff(soft[region][order]) >= -1e-6).all()


def test_a_thin_line_still_reaches_one() -> None:
    mask = np.zeros((9, 9), np.float32)
    mask[4] = 1
    assert masks.feathered(mask, 8)[4].tolist() == [1.0] * 9


def test_the_border_of_the_picture_is_no_edge() -> None:
    mask = np.ones((8, 8), np.float32)
    assert (masks.feathered(mask, 5) == 1).all()
    mask[:, 4:] = 0
    soft = masks.feathered(mask, 2)
    assert (soft[:, 0] == 1).all()
    assert (soft[0] == soft[4]).all()


def test_growing_and_feathering_by_nothing_keep_a_soft_mask() -> None:
    soft = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    assert masks.grown(soft, 0) is soft
    assert masks.feathered(soft, 0) is soft


@settings(max_examples=60, deadline=None)
@given(REGIONS, st.integers(1, 12), st.integers(1, 12), st.floats(1, 2), st.floats(1, 2))
def test_a_latent_is_painted_when_any_of_its_pixels_is(
    region: npt.NDArray[np.bool_], width: int, height: int, beyond_x: float, beyond_y: float
) -> None:
    right, bottom = region.shape[1] * beyond_x, region.shape[0] * beyond_y
    found = masks.at_latent_size(as_mask(region), right=right, bottom=bottom, width=width, height=height)
    assert found.shape == (height, width)
    assert set(np.unique(found)) <= {0.0, 1.0}
    for y, x in zip(*np.nonzero(region), strict=True):
        # A point just within the pixel, in latents.
        assert found[int((y + 1e-3) / bottom * height), int((x + 1e-3) / right * width)] == 1
    assert found.any() == region.any()


def test_latents_that_fit_the_pixels_take_no_more_than_theirs() -> None:
    mask = np.zeros((16, 16), np.float32)
    mask[4:8, 8:12] = 1
    found = masks.at_latent_size(mask, right=16, bottom=16, width=4, height=4)
    assert np.argwhere(found).tolist() == [[1, 2]]


def test_a_box_is_cut_to_the_picture() -> None:
    mask = masks.of_box(Box(left=-2, top=3, width=5, height=90), width=6, height=5)
    assert np.argwhere(mask).tolist() == [[y, x] for y in (3, 4) for x in range(3)]
    assert not masks.of_box(Box(left=-9, top=0, width=5, height=5), width=6, height=5).any()


def test_the_bounding_box_and_its_padding_end_with_the_picture() -> None:
    mask = np.zeros((10, 20), np.float32)
    mask[2:4, 15] = 0.1
    assert masks.bounding_box(mask) == Box(left=15, top=2, width=1, height=2)
    assert masks.bounding_box(mask, 3) == Box(left=12, top=0, width=7, height=7)


def test_solid_goes_by_half_height() -> None:
    soft = np.array([[0.2, 0.5, 0.9, 0.49]], np.float32)
    assert masks.solid(soft).tolist() == [[0, 1, 1, 0]]


def test_an_empty_mask_is_refused_on_its_field() -> None:
    full = np.ones((2, 2), np.float32)
    assert masks.checked(full, "mask") is full
    with pytest.raises(InvalidRequest) as refusal:
        masks.checked(full * 0.4, "mask_prompt")
    assert refusal.value.field == "mask_prompt"
