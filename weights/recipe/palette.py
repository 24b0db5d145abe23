"""Named colours of the training pictures: one hex value per name and use.

Knows colours and their distances; does not know what is drawn with them.
"""

from collections.abc import Mapping
from random import Random

BACKGROUNDS: Mapping[str, str] = {
    "white": "#f8f8f6",
    "grey": "#b4bac0",
    "yellow": "#ffe25c",
    "orange": "#ffa64d",
    "red": "#e25560",
    "pink": "#f9a3c6",
    "purple": "#b693ee",
    "blue": "#8fc1f7",
    "teal": "#5ec8bd",
    "green": "#98d67e",
    "black": "#25272c",
}
CLOTHES: Mapping[str, str] = {
    "red": "#cf2e2e",
    "orange": "#f07a18",
    "yellow": "#f2c81c",
    "green": "#2f9a41",
    "teal": "#0d8783",
    "blue": "#2360d8",
    "purple": "#7a2fbe",
    "pink": "#ee5ca1",
    "black": "#202124",
    "white": "#f3f3f1",
    "grey": "#7c828a",
}
HAIR: Mapping[str, str] = {
    "black": "#1d1a1c",
    "brown": "#64401f",
    "blonde": "#f2cf4a",
    "red": "#c0410f",
    "grey": "#9da2a8",
    "white": "#f0eee9",
    "pink": "#f062a6",
    "blue": "#3b78e0",
}
SKIN: Mapping[str, str] = {"light": "#f7d3b5", "tan": "#dfa878", "brown": "#a5673f", "dark": "#5c3a2a"}
BODIES: Mapping[str, str] = {
    "red": "#e0413d",
    "orange": "#f58a2b",
    "yellow": "#f5cf33",
    "green": "#4cb050",
    "teal": "#1fa79d",
    "blue": "#3c82ee",
    "purple": "#9256d8",
    "pink": "#f277b0",
    "grey": "#8b9198",
    "white": "#eceeef",
}
# Backgrounds of planets are dark, so that stars and rings stay visible.
NIGHTS: Mapping[str, str] = {"black": "#15161b", "blue": "#15296e", "purple": "#43206f", "teal": "#0a4b4e"}
HILLS: Mapping[str, tuple[str, str, str, str]] = {
    "green": ("#b2d69c", "#83b56c", "#4f8a48", "#2a5a31"),
    "brown": ("#dcbf94", "#b88c58", "#8a5f35", "#59391d"),
    "blue": ("#a9c9ec", "#739fd2", "#4373ad", "#234a7d"),
    "purple": ("#cfb5ec", "#a281cf", "#7552a6", "#482c73"),
    "red": ("#f0b4a4", "#d9786a", "#b04646", "#75282d"),
}

_MIN_DISTANCE = 75.0
_JITTER = 5

RGB = tuple[int, int, int]


def rgb(value: str) -> RGB:
    """Red, green and blue (0 to 255) of a `#rrggbb` colour."""
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)


def to_hex(color: RGB) -> str:
    """`#rrggbb` of a colour, each channel clipped to 0 to 255."""
    return "#" + "".join(f"{min(255, max(0, channel)):02x}" for channel in color)


def mix(first: str, second: str, share: float) -> str:
    """`first` with `share` (0 to 1) of `second` in it."""
    a, b = rgb(first), rgb(second)
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return to_hex((red, green, blue))


def jitter(value: str, rng: Random) -> str:
    """The colour moved by at most five levels per channel, so that a name is a small region."""
    red, green, blue = (channel + rng.randint(-_JITTER, _JITTER) for channel in rgb(value))
    return to_hex((red, green, blue))


def distance(first: str, second: str) -> float:
    """Perceived distance of two colours, 0 to about 765 ("redmean", Riemersma 2008)."""
    a, b = rgb(first), rgb(second)
    mean = (a[0] + b[0]) / 2
    red, green, blue = (x - y for x, y in zip(a, b, strict=True))
    return float(((2 + mean / 256) * red**2 + 4 * green**2 + (2 + (255 - mean) / 256) * blue**2) ** 0.5)


def clash(first: str, second: str) -> bool:
    """Whether two touching areas of these colours would lose their edge."""
    return distance(first, second) < _MIN_DISTANCE
