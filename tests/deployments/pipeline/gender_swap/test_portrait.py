from __future__ import annotations

import io

import numpy as np
from PIL import Image

from core.specs import Box
from deployments.pipeline.gender_swap.families import RoomForHair
from deployments.pipeline.gender_swap.portrait import Portrait, is_black, portrait_of
from tests.deployments.pipeline.gender_swap.studio import BACKGROUND, SIDE, SKIN, flat, portrait

FACE = Box(left=12, top=10, width=8, height=10)
NOTHING = np.zeros((SIDE, SIDE), np.float32)


def half(value: float = 1.0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    mask = NOTHING.copy()
    mask[SIDE // 2 :] = value
    return mask


def test_the_mask_is_what_was_found_and_the_face() -> None:
    painted = portrait_of(flat(SKIN), half(), None, FACE, None).painted
    assert painted[SIDE // 2 :].all()
    assert painted[10:16, 12:20].all()
    assert painted.sum() == SIDE * SIDE // 2 + 6 * 8


def test_what_is_not_kept_is_painted_too() -> None:
    kept = 1 - half(0.75)
    painted = portrait_of(flat(SKIN), NOTHING, kept, FACE, None).painted
    assert painted[-1, 0] == 0.75
    assert painted[0, 0] == 0


def test_a_picture_in_which_no_mask_was_found_is_painted_at_the_face() -> None:
    assert portrait_of(flat(SKIN), None, None, FACE, None).painted.sum() == 8 * 10


def test_long_hair_gets_room_above_and_beside_the_face_and_down_to_the_shoulders() -> None:
    room = RoomForHair(beside=0.5, above=0.5, below=0.8)
    face = portrait_of(flat(SKIN), NOTHING, None, FACE, room)
    rows, columns = np.nonzero(face.painted)
    assert (rows.min(), rows.max()) == (5, 28)
    assert (columns.min(), columns.max()) == (8, 24)
    # An arch: round above, straight below.
    assert not face.painted[5, 8]
    assert face.painted[28, 8]
    # Room is no person: what is background there may be given back.
    assert face.person.sum() == 8 * 10


def test_room_beyond_the_picture_is_cut() -> None:
    room = RoomForHair(beside=9, above=9, below=9)
    assert portrait_of(flat(SKIN), NOTHING, None, FACE, room).painted[-1].all()


def test_the_mask_file_has_the_masks_values() -> None:
    face = portrait_of(flat(SKIN), half(0.6), None, Box(left=0, top=0, width=1, height=1), None)
    file = np.asarray(Image.open(io.BytesIO(face.mask_png)))
    assert file.shape == (SIDE, SIDE)
    assert set(np.unique(file)) == {0, 153, 255}


def test_background_that_is_still_there_comes_back_bit_for_bit() -> None:
    person = (portrait() == SKIN).all(axis=-1).astype(np.float32)
    shown = Portrait(portrait(), person, np.ones_like(person))
    result = flat((BACKGROUND[0] - 6, BACKGROUND[1] + 5, BACKGROUND[2]))
    result[:, :4] = (30, 20, 10)
    finished = shown.with_background(result, 8)
    outside = (person == 0) & (np.arange(SIDE) >= 4)
    assert (finished[outside] == BACKGROUND).all()
    # New hair over the background stays, and so does all that took the person's place.
    assert (finished[:, :4] == (30, 20, 10)).all()
    assert (finished[person == 1] == result[person == 1]).all()


def test_colours_between_one_and_two_tolerances_are_mixed() -> None:
    shown = Portrait(flat(BACKGROUND), NOTHING, np.ones_like(NOTHING))
    result = flat((BACKGROUND[0] - 12, *BACKGROUND[1:]))
    assert (shown.with_background(result, 8)[..., 0] == BACKGROUND[0] - 6).all()


def test_large_pictures_are_mixed_in_bands() -> None:
    shape = (3, 400_000)
    old = np.full((*shape, 3), 90, np.uint8)
    shown = Portrait(old, np.zeros(shape, np.float32), np.ones(shape, np.float32))
    assert (shown.with_background(old + np.uint8(2), 8) == old).all()


def test_a_result_of_another_size_is_left_alone() -> None:
    shown = Portrait(flat(BACKGROUND), NOTHING, NOTHING)
    larger = np.full((SIDE * 2, SIDE * 2, 3), 9, np.uint8)
    assert shown.with_background(larger, 8) is larger


def test_black_is_judged_where_was_painted() -> None:
    pixels = flat(BACKGROUND)
    pixels[SIDE // 2 :] = 3
    assert is_black(pixels, half())
    assert not is_black(pixels)
    assert not is_black(pixels, 1 - half())
    assert is_black(flat((0, 0, 0)), np.ones((4, 4), np.float32))


def test_dark_pictures_and_black_clothes_are_not_black() -> None:
    assert not is_black(flat((40, 30, 20)))
    pixels = flat((0, 0, 0))
    pixels[:2] = SKIN
    assert not is_black(pixels)
