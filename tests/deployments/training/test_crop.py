from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.specs import Box
from deployments.training.crop import FACE, THING, Zoom, box_of, scaled, square_at

sides = st.integers(1, 400)
zooms = st.sampled_from([FACE, THING])


@st.composite
def pictures(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    width, height = draw(sides), draw(sides)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = Box(
        left=left,
        top=top,
        width=draw(st.integers(1, width - left)),
        height=draw(st.integers(1, height - top)),
    )
    return (width, height), box


@given(pictures(), zooms, st.integers(1, 300))
def test_the_crop_is_a_square_within_the_picture(
    picture: tuple[tuple[int, int], Box], zoom: Zoom, min_side: int
) -> None:
    (width, height), subject = picture
    crop = square_at((width, height), subject, zoom, min_side=min_side)
    assert crop.width == crop.height >= min(width, height, min_side)
    assert 0 <= crop.left <= width - crop.width
    assert 0 <= crop.top <= height - crop.height


@given(pictures(), zooms)
def test_a_subject_that_fits_is_shown_whole(picture: tuple[tuple[int, int], Box], zoom: Zoom) -> None:
    size, subject = picture
    crop = square_at(size, subject, zoom)
    if max(subject.width, subject.height) <= min(size):
        # Rounding to whole pixels may cost one at the edge.
        assert crop.left <= subject.left + 1
        assert crop.left + crop.width >= subject.left + subject.width - 1
        assert crop.top <= subject.top + 1
        assert crop.top + crop.height >= subject.top + subject.height - 1


@given(pictures(), zooms)
def test_a_small_subject_fills_a_fair_share_of_its_crop(
    picture: tuple[tuple[int, int], Box], zoom: Zoom
) -> None:
    size, subject = picture
    crop = square_at(size, subject, zoom)
    longer = max(subject.width, subject.height)
    assert longer >= zoom.fair_share * crop.width - 1


def test_a_portrait_is_kept_whole() -> None:
    face = Box(left=40, top=30, width=45, height=50)
    assert square_at((128, 128), face, FACE) == Box(left=0, top=0, width=128, height=128)


def test_a_small_face_is_zoomed_to_but_not_into_blur() -> None:
    face = Box(left=700, top=200, width=40, height=50)
    assert square_at((1000, 800), face, FACE).width == 150
    assert square_at((1000, 800), face, FACE, min_side=256).width == 256
    assert square_at((1000, 800), face, FACE, min_side=4000).width == 800


def test_without_a_subject_the_middle_is_shown() -> None:
    assert square_at((300, 100), None, FACE) == Box(left=100, top=0, width=100, height=100)


def test_a_wide_picture_is_cut_at_the_face() -> None:
    face = Box(left=10, top=20, width=60, height=60)
    assert square_at((300, 100), face, FACE) == Box(left=0, top=0, width=100, height=100)


def test_the_box_of_a_mask_ignores_specks() -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[20:60, 50:150] = 255
    assert box_of(mask) == Box(left=50, top=20, width=100, height=40)
    mask[99, 0] = 255
    assert box_of(mask) == Box(left=50, top=20, width=100, height=40)
    assert box_of(np.full((9, 9), 127, np.uint8)) is None


@given(pictures(), st.floats(0.01, 30))
def test_a_scaled_box_lies_within_the_picture(picture: tuple[tuple[int, int], Box], factor: float) -> None:
    size, box = picture
    found = scaled(box, factor, size)
    assert min(found.width, found.height) >= 1
    assert 0 <= found.left <= size[0] - found.width
    assert 0 <= found.top <= size[1] - found.height
