from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deployments.pipeline.inpainting.masks import Mask, bounding_box
from deployments.pipeline.inpainting.shapes import loosened


def ring(size: int = 24) -> Mask:
    """Half a ring: its bounding box has an empty middle and empty corners."""
    y, x = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(y, x)
    mask: Mask = ((radius > 6) & (radius < 10) & (y < 2)).astype(np.float32)
    return mask


def test_full_fitting_keeps_the_outline_with_its_soft_edge() -> None:
    mask = ring() * np.float32(0.8)
    mask[0, 0] = 0.3
    assert np.array_equal(loosened(mask, 1.0), mask)


def test_no_fitting_takes_the_whole_bounding_box() -> None:
    mask = ring()
    box = bounding_box(mask)
    loose = loosened(mask, 0.0)
    inside = loose[box.top : box.top + box.height, box.left : box.left + box.width]
    assert inside.min() == 1
    assert loose.sum() == box.width * box.height


@given(first=st.floats(0, 1), second=st.floats(0, 1))
def test_less_fitting_never_covers_less_and_never_leaves_the_box(first: float, second: float) -> None:
    mask = ring()
    loose, tight = loosened(mask, min(first, second)), loosened(mask, max(first, second))
    assert (loose >= tight).all()
    assert (tight >= mask).all()
    assert (loosened(mask, 0.0) >= loose).all()


def test_half_fitting_lies_between() -> None:
    mask = ring()
    assert mask.sum() < loosened(mask, 0.7).sum() < loosened(mask, 0.0).sum()


def test_swelling_reaches_so_many_pixels_in_each_direction() -> None:
    mask = np.zeros((20, 30), np.float32)
    mask[0, :] = mask[:, 0] = 1
    loose = loosened(mask, 0.6)
    assert loose[:5, :].all()
    assert loose[:, :5].all()
    assert not loose[5:, 5:].any()


def test_an_empty_mask_stays_empty() -> None:
    mask = np.full((4, 4), 0.2, np.float32)
    assert np.array_equal(loosened(mask, 0.0), mask)
