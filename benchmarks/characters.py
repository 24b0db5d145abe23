"""Characters of the embedded world: one face, hair and glasses, seen in any clothes before any background.

Knows the renderer's parts; nothing of models.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from weights.recipe import palette
from weights.recipe.looks import LOOKS
from weights.recipe.portraits import draw_portrait
from weights.recipe.scenes import HELD_OUT_SEED, rasterize
from weights.recipe.sources import draw_svg

# What makes a character, as the attribute classifier names it.
IDENTITY = ("subject", "look", "skin", "hair_color", "beard", "glasses")


@dataclass(frozen=True)
class Wear:
    """What changes from picture to picture: a garment, its colour, the colour behind."""

    clothes: str
    clothes_color: str
    background: str


@dataclass(frozen=True)
class Character:
    """Somebody, as drawn from a seed. ``attributes`` are those of ``IDENTITY`` that can be seen."""

    seed: int
    subject: str
    look: str
    attributes: Mapping[str, str]
    options: Mapping[str, object]
    source: str

    @property
    def skin(self) -> tuple[int, int, int]:
        """The colour of the skin, RGB."""
        colors: Any = self.options[LOOKS[self.look].keys["skin"]]
        return palette.rgb(colors[0])

    def wears(self, num: int, seed: int) -> list[Wear]:
        """So many different ones, as different as possible, none hiding an edge of the character."""
        rng = Random(f"{self.seed}/{seed}")
        colors, backgrounds = list(palette.CLOTHES), list(palette.BACKGROUNDS)
        kept = [str(value[0]) for key, value in self.options.items() if key in ("hairColor", "skinColor")]  # type: ignore[index]
        found: list[Wear] = []
        while len(found) < num:
            rng.shuffle(colors)
            rng.shuffle(backgrounds)
            for color, background in zip(colors, backgrounds, strict=True):
                seen = (palette.BACKGROUNDS[background], palette.CLOTHES[color])
                if (
                    color == background
                    or palette.clash(*seen)
                    or any(palette.clash(seen[0], k) for k in kept)
                ):
                    continue
                clothes = rng.choice(list(LOOKS[self.look].clothes[self.subject]))
                found.append(Wear(clothes, color, background))
        return found[:num]

    def picture(self, wear: Wear) -> bytes:
        """The character so dressed, a PNG file 128 pixels square."""
        look = LOOKS[self.look]
        options = {
            **self.options,
            **look.clothes[self.subject][wear.clothes][0],
            look.keys["clothes"]: [palette.CLOTHES[wear.clothes_color]],
            look.keys["background"]: [palette.BACKGROUNDS[wear.background]],
        }
        file = io.BytesIO()
        rasterize(draw_svg(self.source, self.seed % 2**31, options)).save(file, "PNG")
        return file.getvalue()


def characters(num: int) -> list[Character]:
    """Held-out men and women in turn, in all looks, as many as wanted."""
    looks = list(LOOKS)
    return [_character(index, ("man", "woman")[index % 2], looks[index % 3]) for index in range(num)]


def _character(index: int, subject: str, look: str) -> Character:
    seed = HELD_OUT_SEED * 3 + index
    drawing = draw_portrait(subject, look, Random(seed))
    facts = {"beard": "no", "glasses": "no", **drawing.attributes, "subject": subject, "look": look}
    identity = {key: facts[key] for key in IDENTITY if key in facts}
    return Character(seed, subject, look, identity, drawing.options, drawing.source)
