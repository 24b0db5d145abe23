"""The DiceBear styles the pictures come from: whose work, under which licence, and how to draw one.

Knows artists, licences and the drawing call; does not know which parts are chosen.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dicebear import Avatar, Style

from weights.recipe.marks import marked

SIZE = 128


@dataclass(frozen=True)
class Source:
    """One DiceBear style: what it is used for, its artist, origin and licence."""

    style: str
    used_for: str
    title: str
    artist: str
    url: str
    licence: str
    licence_url: str


_CC_BY = ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/")
_CC0 = ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/")
_FREE = "Free for personal and commercial use"
_DICEBEAR = ("DiceBear", "https://www.dicebear.com")

SOURCES: tuple[Source, ...] = (
    Source(
        "toon-head",
        "cartoon portraits",
        "ToonHead",
        "Johan Melin",
        "https://www.figma.com/community/file/1589627891082866389",
        *_CC_BY,
    ),
    Source(
        "avataaars",
        "flat portraits",
        "Avataaars",
        "Pablo Stanley",
        "https://avataaars.com/",
        _FREE,
        "https://avataaars.com/",
    ),
    Source(
        "personas",
        "minimal portraits",
        "Personas by Draftbit",
        "Draftbit",
        "https://personas.draftbit.com/",
        *_CC_BY,
    ),
    Source(
        "bottts", "robots", "Bottts", "Pablo Stanley", "https://bottts.com/", _FREE, "https://bottts.com/"
    ),
    Source("critters", "monsters", "Critters", *_DICEBEAR, *_CC0),
    Source("landscape", "landscapes", "Landscape", *_DICEBEAR, *_CC0),
    Source("planets", "planets", "Planets", *_DICEBEAR, *_CC0),
    Source("shapes", "abstract pictures", "Shapes", *_DICEBEAR, *_CC0),
)

# A value is a variant or colour list, a number or a variant's name.
Options = Mapping[str, object]


@dataclass(frozen=True)
class Drawing:
    """What to draw: a DiceBear style, its options, and the true attributes of the result."""

    source: str
    attributes: dict[str, str]
    options: Options


@cache
def _style(name: str) -> Style:
    definition = json.loads(files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8"))
    return Style(marked(name, definition))


def component_variants(style: str) -> dict[str, tuple[str, ...]]:
    """Every component of a style with the variants it can take."""
    components = _style(style).components()
    return {name: tuple(part.variants()) for name, part in components.items() if part.extends_name() is None}


def draw_svg(style: str, seed: int, options: Options) -> str:
    """SVG text of a style; `seed` only places what has no option (hills, stars, rings).

    Raises a `dicebear` validation error for an option of the wrong type.
    """
    svg: str = Avatar(_style(style), {"seed": str(seed), "size": SIZE, **options}).to_string()
    # resvg draws this highlight as plain white where its group is masked, which greys every skin.
    return svg.replace('opacity=".36" style="mix-blend-mode:overlay"', 'opacity=".12"')
