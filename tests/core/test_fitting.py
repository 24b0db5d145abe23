"""A fitted size keeps the aspect ratio and every bound, whatever the picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fitting import Fitted, fit, size_for
from core.types import ModelInfo, SamplerName

SIDES = st.integers(1, 60_000)
BOUNDS = st.none() | st.integers(1, 1_024)
MODEL = ModelInfo("m", "sd15", "", 512, 256, 1_024, 8, 0, "epsilon", SamplerName.EULER, 25, 7.5)


@given(SIDES, SIDES, st.none() | st.integers(1, 1_048_576), BOUNDS, BOUNDS, st.sampled_from((1, 8, 16, 64)))
def test_every_bound_is_kept(
    width: int, height: int, area: int | None, wide: int | None, high: int | None, multiple: int
) -> None:
    found = fit(
        width, height, max_area=area, max_width=wide, max_height=high, multiple=multiple, max_side=1_024
    )
    assert 1 <= found.width <= (wide or 1_024)
    assert 1 <= found.height <= (high or 1_024)
    assert area is None or found.width * found.height <= area
    for side, padded in ((found.width, found.padded_width), (found.height, found.padded_height)):
        assert 0 <= padded - side < multiple
        assert padded % multiple == 0
        assert padded <= 1_024


@given(SIDES, SIDES, BOUNDS, BOUNDS)
def test_the_aspect_ratio_is_kept_to_half_a_pixel(
    width: int, height: int, wide: int | None, high: int | None
) -> None:
    found = fit(width, height, max_width=wide, max_height=high, multiple=8, max_side=1_024)
    longer, shorter = max(width, height), min(width, height)
    exact = max(found.width, found.height) * shorter / longer
    assert abs(min(found.width, found.height) - max(1, exact)) <= 0.5
    assert (found.width >= found.height) == (width >= height) or found.width == found.height


@given(SIDES, SIDES, st.none() | st.integers(1, 1_048_576), BOUNDS, BOUNDS)
def test_no_larger_size_would_do(
    width: int, height: int, area: int | None, wide: int | None, high: int | None
) -> None:
    found = fit(width, height, max_area=area, max_width=wide, max_height=high, multiple=8, max_side=1_024)
    longer = max(found.width, found.height) + 1
    shorter = max(1, round(longer * min(width, height) / max(width, height)))
    grown = (longer, shorter) if width >= height else (shorter, longer)
    assert (
        longer > 1_024
        or grown[0] > (wide or 1_024)
        or grown[1] > (high or 1_024)
        or (area is not None and grown[0] * grown[1] > area)
        # Exactly half a pixel is rounded up here and to even by Python.
        or abs(longer * min(width, height) / max(width, height) % 1 - 0.5) < 1e-9
    )


@given(SIDES, SIDES, BOUNDS, BOUNDS)
def test_a_reported_size_fits_again(width: int, height: int, wide: int | None, high: int | None) -> None:
    found = size_for(width, height, MODEL, wide, high)
    assert size_for(width, height, MODEL, *found) == found


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), Fitted(512, 512, 512, 512)),
        ((100, 100), Fitted(512, 512, 512, 512)),
        ((4_000, 3_000), Fitted(591, 443, 592, 448)),
        ((1, 1), Fitted(512, 512, 512, 512)),
        ((10_000, 1), Fitted(1_024, 1, 1_024, 8)),
        ((1, 10_000), Fitted(1, 1_024, 8, 1_024)),
    ],
)
def test_known_sizes(size: tuple[int, int], expected: Fitted) -> None:
    assert fit(*size, max_area=512 * 512, multiple=8, max_side=1_024) == expected


def test_padding_reaches_the_smallest_side_of_the_model() -> None:
    found = fit(1_000, 10, multiple=16, max_side=256, min_side=64)
    assert found == Fitted(256, 3, 256, 64)
