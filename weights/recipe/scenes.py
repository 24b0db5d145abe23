"""One picture of the training world: a seed, what is in it, and the SVG that shows it.

Knows the mix of subjects and every attribute's values; does not know words, pixels or files.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
import resvg_py
from PIL import Image

from weights.recipe import palette, subjects
from weights.recipe.filters import FILTERS
from weights.recipe.looks import LOOKS
from weights.recipe.portraits import draw_portrait
from weights.recipe.sources import SIZE, Drawing, draw_svg

# Seeds below are for training; evaluation starts here.
HELD_OUT_SEED = 10_000_000
_STYLE_SHARE = 0.14

# (subject or "portrait", look, weight in percent)
_MIX: tuple[tuple[str, str, int], ...] = (
    ("portrait", "cartoon", 26),
    ("portrait", "flat", 20),
    ("portrait", "minimal", 16),
    ("robot", "", 10),
    ("monster", "", 10),
    ("landscape", "", 7),
    ("planet", "", 7),
    ("abstract", "", 4),
)
_OTHERS: Mapping[str, Callable[[Random], Drawing]] = {
    "robot": subjects.draw_robot,
    "monster": subjects.draw_monster,
    "landscape": subjects.draw_landscape,
    "planet": subjects.draw_planet,
    "abstract": subjects.draw_abstract,
}


@dataclass(frozen=True)
class Record:
    """What is true of a picture: the input of the caption generator and of classifiers.

    `look` is empty unless the subject is a man or a woman, `style` unless a filter was applied.
    `attributes` holds only what the picture shows: a bald man has no `hair_color`.
    """

    seed: int
    subject: str
    look: str
    style: str
    attributes: Mapping[str, str]

    def labels(self) -> dict[str, str]:
        """Every fact by its key of `ATTRIBUTE_VALUES`; facts that do not apply are absent."""
        facts = {"subject": self.subject, "look": self.look, "style": self.style, **self.attributes}
        return {key: value for key, value in facts.items() if value}


@dataclass(frozen=True)
class Scene(Record):
    """A record and the SVG it describes, before the style's filter."""

    svg: str


def _union(*groups: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for group in groups for word in group))


_MEN_AND_WOMEN = [tables for look in LOOKS.values() for tables in (look.hair["man"], look.hair["woman"])]

ATTRIBUTE_VALUES: Mapping[str, tuple[str, ...]] = {
    "subject": ("man", "woman", *_OTHERS),
    "look": tuple(LOOKS),
    "style": tuple(FILTERS),
    "background": tuple(palette.BACKGROUNDS),
    "expression": _union(*(look.expressions for look in LOOKS.values()), subjects.MONSTER_MOUTHS),
    "skin": tuple(palette.SKIN),
    "hair": _union(*_MEN_AND_WOMEN),
    "hair_color": tuple(palette.HAIR),
    "beard": ("no", "beard", "moustache"),
    "glasses": ("no", "glasses", "sunglasses"),
    "clothes": _union(*(look.clothes["woman"] for look in LOOKS.values())),
    "clothes_color": tuple(palette.CLOTHES),
    "color": tuple(palette.BODIES),
    "head": tuple(subjects.ROBOT_HEADS),
    "eyes": tuple(subjects.ROBOT_EYES),
    "mouth": tuple(subjects.ROBOT_MOUTHS),
    "top": _union(subjects.ROBOT_TOPS, subjects.MONSTER_TOPS, {"none": ()}),
    "eye_count": tuple(subjects.MONSTER_EYES),
    "pattern": ("plain", *subjects.MONSTER_PATTERNS),
    "hills": tuple(palette.HILLS),
    "sun": ("yes", "no"),
    "rings": ("yes", "no"),
    "moons": ("no", *subjects.MOONS),
    "shapes": tuple(subjects.SHAPES),
}


def rasterize(svg: str, size: int = SIZE) -> Image.Image:
    """RGB picture of an SVG, `size` pixels square; transparent parts become white."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    with Image.open(io.BytesIO(png)) as drawn:
        picture = drawn.convert("RGBA")
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture)
    return ground


def _balanced(svg: str, background: str) -> bool:
    """Whether both background and shapes of an abstract picture take at least a fifth of it."""
    small = np.asarray(rasterize(svg, 32), dtype=np.int16)
    near = np.abs(small - np.array(palette.rgb(background), np.int16)).max(axis=-1) < 24
    return 0.2 <= float(near.mean()) <= 0.8


def _draw(subject: str, look: str, rng: Random) -> Drawing:
    return draw_portrait(subject, look, rng) if look else _OTHERS[subject](rng)


def draw(seed: int) -> Scene:
    """The scene of a seed (0 or more); the same seed gives the same scene, byte for byte."""
    rng = Random(seed)
    kind, look, _ = rng.choices(_MIX, [weight for _, _, weight in _MIX])[0]
    subject = rng.choice(("man", "woman")) if kind == "portrait" else kind
    style = rng.choice(tuple(FILTERS)) if rng.random() < _STYLE_SHARE else ""
    while True:
        drawing = _draw(subject, look, rng)
        svg = draw_svg(drawing.source, rng.getrandbits(31), drawing.options)
        if subject == "abstract" and not _balanced(
            svg, palette.BACKGROUNDS[drawing.attributes["background"]]
        ):
            continue
        # Chalk turns black and grey into each other.
        if style == "pastel" and {"black", "grey"} & {
            drawing.attributes["background"],
            drawing.attributes.get("clothes_color", ""),
        }:
            continue
        return Scene(seed, subject, look, style, drawing.attributes, svg)
