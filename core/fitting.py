"""At which size a picture is worked on: its own aspect ratio, within bounds. Pure integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from core.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Fitted:
    """A size in pixels, and the one that the model works at, with padding on the right and below."""

    width: int
    height: int
    padded_width: int
    padded_height: int


def fit(
    width: int,
    height: int,
    *,
    max_area: int | None = None,
    max_width: int | None = None,
    max_height: int | None = None,
    multiple: int,
    max_side: int,
    min_side: int = 1,
) -> Fitted:
    """The largest size with the aspect ratio of ``width`` × ``height`` that keeps every bound.

    The longer side is a whole number; the shorter one is the nearest to the exact ratio, at least 1, so
    nothing is distorted by more than half a pixel unless a picture is thinner than ``max_side`` allows.
    Padded sides are multiples of ``multiple`` from ``min_side`` to ``max_side``. A result fitted again
    within its own sides is itself.
    """
    assert min(width, height, multiple) >= 1, "a picture has pixels"
    longest = max_side // multiple * multiple
    bounds = min(max_width or longest, longest), min(max_height or longest, longest)

    def suits(size: tuple[int, int]) -> bool:
        area = size[0] * size[1]
        return size[0] <= bounds[0] and size[1] <= bounds[1] and (max_area is None or area <= max_area)

    # Both sides grow with the longer one: the largest that suits, by bisection.
    low, high = 1, longest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if suits(_scaled(width, height, middle)) else (low, middle - 1)
    fitted = _scaled(width, height, low)
    padded = [max(_up(side, multiple), _up(min_side, multiple)) for side in fitted]
    return Fitted(*fitted, *padded)


def size_for(
    width: int, height: int, model: ModelInfo, max_width: int | None, max_height: int | None
) -> tuple[int, int]:
    """The size at which ``model`` works on a picture: within the bounds given, if there are any.

    Without bounds it has about as many pixels as the square that the model was made for.
    """
    free = max_width is None and max_height is None
    fitted = fit(
        width,
        height,
        max_area=model.default_size**2 if free else None,
        max_width=max_width,
        max_height=max_height,
        multiple=model.size_multiple,
        max_side=model.max_size,
    )
    return fitted.width, fitted.height


def _scaled(width: int, height: int, longer: int) -> tuple[int, int]:
    """The size whose longer side is ``longer``."""
    if width >= height:
        return longer, max(1, (2 * height * longer + width) // (2 * width))
    return max(1, (2 * width * longer + height) // (2 * height)), longer


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
