"""Draws a man or a woman in one of the looks: parts, colours and the attributes that name them.

Knows which choices exclude each other; the tables of parts are in `looks`.
"""

from random import Random

from weights.recipe import palette
from weights.recipe.looks import LOOKS, Choices, Look, Parts
from weights.recipe.sources import Drawing

BALD = ("bald", "balding")
# Words of an expression that only the eyes show; spectacles hide them.
_EYES_ONLY = ("winking", "laughing")
_HAIR_WEIGHTS = {"black": 4, "brown": 5, "blonde": 4, "red": 4, "grey": 2, "white": 1, "pink": 1, "blue": 1}
_DARK_FRAME, _LIGHT_FRAME = "#20242a", "#f2f2f2"


def _pick(choices: Choices, rng: Random, leave_out: tuple[str, ...] = ()) -> tuple[str, Parts]:
    word = rng.choice([name for name in choices if name not in leave_out])
    return word, rng.choice(choices[word])


def _colors(gender: str, rng: Random) -> dict[str, tuple[str, str]]:
    """Name and hex of background, clothes, skin and hair, drawn again until all edges show."""
    names = [name for name in palette.HAIR if gender == "woman" or name != "pink"]
    while True:
        chosen = {
            "background": rng.choice(tuple(palette.BACKGROUNDS)),
            "clothes": rng.choice(tuple(palette.CLOTHES)),
            "skin": rng.choice(tuple(palette.SKIN)),
            "hair": rng.choices(names, [_HAIR_WEIGHTS[name] for name in names])[0],
        }
        tables = (palette.BACKGROUNDS, palette.CLOTHES, palette.SKIN, palette.HAIR)
        hexes = {
            role: palette.jitter(table[name], rng)
            for (role, name), table in zip(chosen.items(), tables, strict=True)
        }
        touching = (
            ("background", "clothes"),
            ("background", "hair"),
            ("background", "skin"),
            ("skin", "hair"),
        )
        if not any(chosen[a] == chosen[b] or palette.clash(hexes[a], hexes[b]) for a, b in touching):
            return {role: (chosen[role], hexes[role]) for role in chosen}


def _glasses(look: Look, rng: Random) -> str:
    if not look.glasses:
        return ""
    return rng.choices(("no", "glasses", "sunglasses"), (64, 22, 14))[0]


def _hair(look: Look, gender: str, rng: Random) -> tuple[str, Parts]:
    choices = look.hair[gender]
    bald = [word for word in choices if word in BALD]
    if bald and rng.random() < 0.14:
        word = rng.choice(bald)
        return word, rng.choice(choices[word])
    return _pick(choices, rng, BALD)


def draw_portrait(gender: str, look_name: str, rng: Random) -> Drawing:
    """Portrait of a `man` or `woman` in the look `cartoon`, `flat` or `minimal`."""
    look = LOOKS[look_name]
    hair, hair_parts = _hair(look, gender, rng)
    glasses = _glasses(look, rng)
    expression, face = _pick(look.expressions, rng, _EYES_ONLY if glasses == "sunglasses" else ())
    if glasses == "glasses" and expression == "winking":
        expression, face = _pick(look.expressions, rng, ("winking",))
    clothes, clothes_parts = _pick(look.clothes[gender], rng)
    colors = _colors(gender, rng)
    beard, beard_parts = "", look.no_beard
    if gender == "man":
        beard = rng.choices(("no", "beard", "moustache"), (58, 27, 15))[0]
        if beard != "no":
            beard_parts = rng.choice(look.beards[beard])
    if beard_parts.get("facialHairVariant") in look.laughing_beards:
        expression, face = _pick({"laughing": look.expressions["laughing"]}, rng)
    options: dict[str, object] = {**look.fixed, **hair_parts, **face, **clothes_parts, **beard_parts}
    # The minimal look draws glasses in place of the eyes, so they come after the face.
    options.update(rng.choice(look.glasses[glasses]) if glasses in look.glasses else look.no_glasses)
    frame = _LIGHT_FRAME if colors["skin"][0] == "dark" else _DARK_FRAME
    hexes = {role: value for role, (_, value) in colors.items()} | {
        "beard": colors["hair"][1],
        "frame": frame,
    }
    options.update({key: [hexes[role]] for role, key in look.keys.items()})
    attributes = {
        "expression": expression,
        "skin": colors["skin"][0],
        "hair": hair,
        "hair_color": "" if hair == "bald" else colors["hair"][0],
        "beard": beard,
        "glasses": glasses,
        "clothes": clothes,
        "clothes_color": colors["clothes"][0],
        "background": colors["background"][0],
    }
    return Drawing(look.source, {key: word for key, word in attributes.items() if word}, options)
