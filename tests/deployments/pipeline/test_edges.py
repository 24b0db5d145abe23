from __future__ import annotations

import numpy as np

from deployments.pipeline.edges import canny


def test_the_outline_of_a_square_is_one_pixel_wide_and_closed() -> None:
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[10:30, 12:36] = 255
    edges = canny(pixels)
    assert edges.shape == (40, 48)
    assert set(np.unique(edges)) == {0.0, 1.0}
    # A line through the middle meets two edges, near the square's sides.
    assert [x for x in np.flatnonzero(edges[20]) if abs(x - 12) <= 1 or abs(x - 36) <= 1] == list(
        np.flatnonzero(edges[20])
    )
    assert edges[20].sum() == 2
    assert edges[15:25, 16:32].sum() == 0


def test_weak_edges_count_where_they_continue_a_strong_one() -> None:
    pixels = np.full((32, 64, 3), 100, np.uint8)
    # The step fades along its length; a separate one is as weak as its end.
    pixels[8:, :, :] = (100 + np.linspace(150, 60, 64)).astype(np.uint8)[None, :, None]
    with_strong = canny(pixels, low=0.1, high=0.25)
    weak_alone = np.full((32, 64, 3), 100, np.uint8)
    weak_alone[8:] = 160
    assert with_strong[:, 60].any()
    assert not canny(weak_alone, low=0.1, high=0.25).any()


def test_a_flat_picture_has_no_edges() -> None:
    assert not canny(np.full((16, 16, 3), 77, np.uint8)).any()
