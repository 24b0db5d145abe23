"""Passes over a picture: what is new, what is shown, and that the old pixels never change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.specs import Box, Margins
from core.types import ModelInfo
from deployments.pipeline.inpainting.canvas import Pixels
from deployments.pipeline.inpainting.passes import MAX_PASSES, Reach, pass_inside, passes_beyond
from weights import registry

INFO: ModelInfo = replace(registry.info("mini"), default_size=32, max_size=64, size_multiple=8)
WIDTHS = st.integers(0, 40)
REACH = Reach(step=0.25, area=1.5)


def enlarged(picture: Pixels, margins: Margins, reach: Reach = REACH, feather: int = 3) -> tuple[Pixels, int]:
    """``picture`` after all passes of a model that paints everything white; and how many they were."""
    height, width = picture.shape[:2]
    passes = passes_beyond(margins, width=width, height=height, feather=feather, reach=reach, info=INFO)
    for each in passes:
        canvas = each.canvas(picture)
        shown = each.working.shown(canvas)
        assert max(shown.shape) <= INFO.max_size
        picture = each.working.pasted(canvas, np.full_like(shown, 255), each.mask)
    return picture, len(passes)


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 70), st.integers(20, 70), WIDTHS, WIDTHS, WIDTHS, WIDTHS, st.integers(0, 4))
def test_the_old_picture_stays_bit_identical_and_all_else_is_painted(
    width: int, height: int, left: int, top: int, right: int, bottom: int, feather: int
) -> None:
    margins = Margins(left=left, top=top, right=right, bottom=bottom)
    if margins == Margins():
        return
    picture = np.random.default_rng(width).integers(0, 200, (height, width, 3), np.uint8)
    result, _ = enlarged(picture, margins, feather=feather)
    assert result.shape == (height + top + bottom, width + left + right, 3)
    assert np.array_equal(result[top : top + height, left : left + width], picture)
    if not feather:
        old = np.zeros(result.shape[:2], bool)
        old[top : top + height, left : left + width] = True
        assert (result[~old] == 255).all()


def test_margins_within_reach_take_one_pass_over_everything() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    passes = passes_beyond(
        Margins(left=10, right=10, top=5, bottom=2), width=40, height=40, feather=0, reach=REACH, info=INFO
    )
    (only,) = passes
    assert only.working.box == Box(left=0, top=0, width=60, height=47)
    assert only.canvas(picture).shape == (47, 60, 3)
    fitted = only.working.fitted
    assert 32 * 32 < fitted.width * fitted.height <= 32 * 32 * 1.5


def test_wide_margins_are_painted_step_by_step_in_squares_at_the_end() -> None:
    passes = passes_beyond(Margins(right=100), width=40, height=40, feather=0, reach=REACH, info=INFO)
    assert [each.margins.right for each in passes] == [10] * 10
    ends = np.cumsum([10] * 10) + 40
    assert [each.working.box for each in passes] == [
        Box(left=int(end) - 40, top=0, width=40, height=40) for end in ends
    ]
    assert all((each.mask[:, 30:] == 1).all() and not each.mask[:, :30].any() for each in passes)


def test_each_side_has_its_turn_and_the_corners_are_filled() -> None:
    picture = np.zeros((30, 30, 3), np.uint8)
    result, num_passes = enlarged(picture, Margins(left=20, top=20, right=20, bottom=20), Reach(0.2, 1), 0)
    assert num_passes == 4 + 4 + 2 + 2
    assert (result[:20] == 255).all()
    assert (result[20:50, 20:50] == 0).all()


@pytest.mark.parametrize("margins", [Margins(), Margins(top=10_000)])
def test_no_margins_and_too_wide_ones_are_refused(margins: Margins) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        passes_beyond(margins, width=40, height=40, feather=0, reach=REACH, info=INFO)
    assert refusal.value.field == "margins"
    assert refusal.value.limit in (None, MAX_PASSES)


def test_a_pass_inside_a_mask_leaves_the_picture_its_size() -> None:
    mask = np.zeros((50, 60), np.float32)
    mask[20:30, 10:20] = 1
    only = pass_inside(mask, Box(left=5, top=15, width=20, height=20), INFO)
    picture = np.zeros((50, 60, 3), np.uint8)
    assert only.canvas(picture) is picture
    assert only.mask.sum() == 100
    assert only.mask.shape == (20, 20)
