"""Filters: deterministic, of the same size, and each recognisable by what it does to pixels."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from weights.recipe import filters, scenes
from weights.recipe.filters import FILTERS


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    plain = (scene for scene in map(scenes.draw, range(100)) if scene.look and not scene.style)
    return [scenes.rasterize(scene.svg) for scene, _ in zip(plain, range(4), strict=False)]


def _values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.int16)


@pytest.mark.parametrize("style", FILTERS)
def test_a_filter_keeps_size_and_mode_and_gives_the_same_bytes_again(
    style: str, pictures: list[Image.Image]
) -> None:
    once, again = filters.apply(style, pictures[0]), filters.apply(style, pictures[0])

    assert once.mode == "RGB"
    assert once.size == pictures[0].size
    assert once.tobytes() == again.tobytes()


def test_all_styles_differ_from_each_other_and_from_the_picture(pictures: list[Image.Image]) -> None:
    for picture in pictures:
        results = [picture, *(filters.apply(style, picture) for style in FILTERS)]
        for first, second in combinations(results, 2):
            assert np.abs(_values(first) - _values(second)).mean() > 4


def test_no_style_leaves_the_picture(pictures: list[Image.Image]) -> None:
    assert filters.apply("", pictures[0]) is pictures[0]


def test_unknown_style_is_refused(pictures: list[Image.Image]) -> None:
    with pytest.raises(KeyError, match="etching"):
        filters.apply("etching", pictures[0])


def test_black_and_white_has_equal_channels(pictures: list[Image.Image]) -> None:
    values = _values(filters.black_and_white(pictures[0]))

    assert (values[..., 0] == values[..., 2]).all()
    assert values.std() > 20


def test_sepia_is_brown(pictures: list[Image.Image]) -> None:
    red, green, blue = np.moveaxis(_values(filters.sepia(pictures[0])), -1, 0)

    assert (red > green).all()
    assert (green > blue).all()


def test_pixel_art_is_a_mosaic_of_few_colours(pictures: list[Image.Image]) -> None:
    values = _values(filters.pixel_art(pictures[0]))

    assert (values[0::4, 0::4] == values[3::4, 3::4]).all()
    assert len(np.unique(values.reshape(-1, 3), axis=0)) <= 16


def test_sketch_is_mostly_paper_and_neon_mostly_night(pictures: list[Image.Image]) -> None:
    for picture in pictures:
        assert (_values(filters.sketch(picture)).mean(axis=-1) > 200).mean() > 0.5
        assert (_values(filters.neon(picture)).max(axis=-1) < 90).mean() > 0.5
        assert _values(filters.neon(picture)).max() > 240


def test_pastel_is_pale_and_poster_has_a_border(pictures: list[Image.Image]) -> None:
    pastel, poster = _values(filters.pastel(pictures[0])), _values(filters.poster(pictures[0]))

    assert pastel.min() > 90
    assert (poster[:8] == np.array([247, 236, 205])).all()


def test_watercolor_leaves_the_margin_bare(pictures: list[Image.Image]) -> None:
    assert (_values(filters.watercolor(pictures[0]))[0] > 245).all()
