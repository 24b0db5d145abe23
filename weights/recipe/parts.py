"""The exact pixels of every part of a scene, got by drawing the scene again with its parts in pure colours.

Knows marked SVGs and masks; nothing about words, captions or training.
"""

import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from weights.recipe.marks import PREFIX
from weights.recipe.scenes import Scene
from weights.recipe.sources import SIZE

Mask = NDArray[np.bool_]

# One bit of a part map each, in this order.
ATOMS: Final = (
    "background", "hair", "neck", "head", "clothes", "mouth", "eyes", "beard", "glasses", "body", "planet",
    "ring", "moon", "sun", "hills",
)  # fmt: skip
# What is made of several atoms. The face is the head as one sees it, without hair, with everything on it.
UNIONS: Final = {
    "face": ("head", "mouth", "eyes", "beard", "glasses"),
    "skin": ("head", "neck"),
    "person": ("hair", "neck", "head", "clothes", "mouth", "eyes", "beard", "glasses"),
    "creature": ("body", "head", "mouth", "eyes"),
    "ringed planet": ("planet", "ring"),
}
_PORTRAIT: Final = ("hair", "clothes", "head", "mouth", "eyes", "neck", "beard")
_OTHERS: Final = {
    "robot": ("body", "head", "eyes", "mouth"),
    "monster": ("body", "mouth", "eyes"),
    "landscape": ("sun", "hills"),
    "planet": ("planet", "ring", "moon"),
    "abstract": ("body",),
}
# Corners of the colour cube, far enough from each other that a faint shade over one does not make it another.
_PAINTS: Final = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]], np.uint8
)
_BLACK: Final = len(_PAINTS) - 1
# Flat eyes and mouths are drawn at 0.6 opacity; this makes them, and the lenses of glasses, count in full.
_ALPHA_GAIN: Final = 1.7
_BACKGROUND_RECT: Final = re.compile(r'(<rect width="\d+" height="\d+" fill=")[^"]*("/>)')


def _filters() -> str:
    """One filter per paint that gives everything its colour and keeps its shape."""
    drawn = []
    for index, paint in enumerate(_PAINTS):
        rows = " ".join(f"0 0 0 0 {level}" for level in paint)
        drawn.append(
            f'<filter id="paint{index}" x="-30%" y="-30%" width="160%" height="160%" '
            f'color-interpolation-filters="sRGB">'
            f'<feColorMatrix values="{rows} 0 0 0 {_ALPHA_GAIN} 0"/></filter>'
        )
    return f"<defs>{''.join(drawn)}</defs>"


def _painted(svg: str, shown: Sequence[str], hidden: Sequence[str] = ()) -> NDArray[np.intp]:
    """Index of the shown part that each pixel's centre shows, [128, 128]; `_BLACK` for everything else.

    What stands in front of a part takes away from it; hidden parts do not.
    """
    rules = [f".{PREFIX}{part} {{ filter: url(#paint{_BLACK}) }}" for part in ATOMS if part not in shown]
    rules += [f".{PREFIX}{part} {{ filter: url(#paint{index}) }}" for index, part in enumerate(shown)]
    rules += [f".{PREFIX}{part} {{ display: none }}" for part in hidden]
    # The head's outline has no fill where head and neck are one path. Blended edges would show third colours.
    rules += [f".{PREFIX}head > path {{ fill: #fff }}", "svg { shape-rendering: crispEdges }"]
    opening = svg.index(">") + 1
    document = svg[:opening] + _filters() + _BACKGROUND_RECT.sub(r"\1#000000\2", svg[opening:], count=1)
    png = bytes(
        resvg_py.svg_to_bytes(
            svg_string=document, width=SIZE, height=SIZE, style_sheet="\n".join(rules), skip_system_fonts=True
        )
    )
    with Image.open(io.BytesIO(png)) as picture:
        levels = np.asarray(picture.convert("RGB")) >= 128
    codes = _PAINTS @ np.array([1, 2, 4])
    found: NDArray[np.intp] = np.argsort(codes)[levels @ np.array([1, 2, 4])]
    return found


def _filled(mask: Mask) -> Mask:
    """The mask and every hole in it: glasses with their lenses."""
    outside = np.pad(np.zeros_like(mask), 1, constant_values=True)
    wall = np.pad(mask, 1)
    while True:
        grown = outside.copy()
        for axis in (0, 1):
            for step in (1, -1):
                grown |= np.roll(grown, step, axis) & ~wall
        if (grown == outside).all():
            return ~outside[1:-1, 1:-1]
        outside = grown


def _bit(atom: str) -> int:
    if atom not in ATOMS:
        raise ValueError(f"there is no part {atom}; there are {', '.join((*ATOMS, *UNIONS))}")
    return 1 << ATOMS.index(atom)


def part_map(scene: Scene) -> NDArray[np.uint16]:
    """Which atoms each pixel of the scene shows, [128, 128], one bit each in the order of `ATOMS`.

    A pixel belongs to the part that its centre shows. Eyes and face behind glasses belong to both; the
    background is what belongs to nothing else. Filters that move the picture's frame move the map too.
    """
    shown = _PORTRAIT if scene.look else _OTHERS[scene.subject]
    bits = np.zeros((SIZE, SIZE), np.uint16)
    found = _painted(scene.svg, shown, hidden=("glasses",))
    for index, atom in enumerate(shown):
        bits |= (found == index) * np.uint16(_bit(atom))
    if scene.attributes.get("glasses", "no") != "no":
        bits |= _filled(_painted(scene.svg, ("glasses",)) == 0) * np.uint16(_bit("glasses"))
    bits |= (bits == 0) * np.uint16(_bit("background"))
    return _framed(scene.style, bits)


def _framed(style: str, bits: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The map of a poster shrinks with its picture; the border is background."""
    if style != "poster":
        return bits
    border = SIZE // 16
    inner = SIZE - 2 * border
    nearest = ((np.arange(inner) + 0.5) * SIZE / inner).astype(np.intp)
    return np.pad(bits[nearest][:, nearest], border, constant_values=_bit("background"))


def mask(bits: NDArray[np.uint16], part: str) -> Mask:
    """The pixels of a part (of `ATOMS` or `UNIONS`) in part maps [..., H, W].

    Raises `ValueError` for an unknown part.
    """
    return union(bits, UNIONS.get(part, (part,)))


def union(bits: NDArray[np.uint16], atoms: Iterable[str]) -> Mask:
    """The pixels of any of the atoms in part maps [..., H, W]; `ValueError` for an unknown one."""
    wanted = np.uint16(sum(_bit(atom) for atom in atoms))
    found: Mask = (bits & wanted) != 0
    return found
