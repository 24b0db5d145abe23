"""Robots, monsters, landscapes, planets and abstract pictures: which parts are chosen and their names."""

from collections.abc import Mapping
from random import Random

from weights.recipe import palette
from weights.recipe.sources import Drawing

Words = Mapping[str, tuple[str, ...]]

ROBOT_EYES: Words = {
    "round": ("round",),
    "bulging": ("bulging",),
    "glowing": ("glow",),
    "happy": ("happy",),
    "visor": ("eva", "robocop", "shade01"),
    "goggles": ("roundFrame01", "roundFrame02"),
    "screen": ("frame1", "frame2"),
}
ROBOT_MOUTHS: Words = {
    "smile": ("smile01", "smile02"),
    "grill": ("grill01", "grill02"),
    "teeth": ("bite", "grill03"),
    "screen": ("diagram",),
    "straight": ("square01", "square02"),
}
ROBOT_HEADS: Words = {
    "round": ("round01", "round02"),
    "square": ("square01", "square02", "square03", "square04"),
}
ROBOT_TOPS: Words = {
    "antenna": ("antenna", "antennaCrooked"),
    "light bulb": ("glowingBulb01", "glowingBulb02"),
    "horns": ("horns",),
    "pyramid": ("pyramid",),
    "radar": ("radar",),
}
ROBOT_SIDES = ("antenna01", "antenna02", "cables01", "cables02", "round", "square", "squareAssymetric")

MONSTER_EYES: Words = {
    "one": ("mono", "monoSleepy"),
    "two": ("round", "dots", "bigPupils", "wide", "sideeye"),
    "three": ("trio", "threeRow"),
    "four": ("four",),
}
MONSTER_MOUTHS: Words = {
    "smiling": ("smile", "tinySmile"),
    "laughing": ("grin", "laugh"),
    "sad": ("frown", "sad"),
    "surprised": ("ooh", "open"),
    "serious": ("line",),
}
MONSTER_TOPS: Words = {
    "horns": ("horns", "hornsIn", "hornsSmall"),
    "antennae": ("antennae",),
    "ears": ("earsRound", "earsPointy", "earsDroop"),
    "spikes": ("spikes",),
    "crown": ("crown",),
    "leaf": ("sprout",),
}
MONSTER_PATTERNS: Words = {
    "spotted": ("dots", "speckles", "spot", "dotRow"),
    "striped": ("bars", "stripes"),
}
MONSTER_BODIES = (
    "dome", "block", "tower", "squat", "blob", "round", "tilt", "lean", "peak", "bell", "wedge", "steps",
)  # fmt: skip
SKIES = ("blue", "yellow", "orange", "pink", "purple", "teal", "grey", "white")
MOONS: Words = {"one": ("one",), "two": ("two",)}
SURFACES = ("banded", "belted", "cratered", "swirl", "spotted", "marbled", "terra", "speckled")
SHAPES: Words = {
    "circles": ("ellipse", "ellipseFilled"),
    "triangles": ("polygon", "polygonFilled"),
    "squares": ("rectangle", "rectangleFilled"),
    "lines": ("line",),
}
ABSTRACT_BACKGROUNDS = tuple(palette.BACKGROUNDS)


def _word(words: Words, rng: Random) -> tuple[str, str]:
    word = rng.choice(tuple(words))
    return word, rng.choice(words[word])


def _body_and_background(rng: Random) -> tuple[str, str, str, str]:
    """Name and hex of a body colour and of a background that keeps its edge."""
    while True:
        color, background = rng.choice(tuple(palette.BODIES)), rng.choice(tuple(palette.BACKGROUNDS))
        body = palette.jitter(palette.BODIES[color], rng)
        behind = palette.jitter(palette.BACKGROUNDS[background], rng)
        if color != background and not palette.clash(body, behind):
            return color, body, background, behind


def draw_robot(rng: Random) -> Drawing:
    """A robot's head with named eyes, mouth, head form and top."""
    color, body, background, behind = _body_and_background(rng)
    head, head_variant = _word(ROBOT_HEADS, rng)
    eyes, eyes_variant = _word(ROBOT_EYES, rng)
    mouth, mouth_variant = _word(ROBOT_MOUTHS, rng)
    top, top_variant = _word(ROBOT_TOPS, rng)
    options = {
        "baseColor": [body],
        "backgroundColor": [behind],
        "headVariant": head_variant,
        "eyesVariant": eyes_variant,
        "mouthVariant": mouth_variant,
        "topVariant": top_variant,
        "sidesVariant": rng.choice(ROBOT_SIDES),
        "textureProbability": 0,
        # Antennas and radars reach beyond the picture at full size.
        "scale": 0.92,
        "translateY": 3,
    }
    attributes = {
        "color": color, "head": head, "eyes": eyes, "mouth": mouth, "top": top, "background": background,
    }  # fmt: skip
    return Drawing("bottts", attributes, options)


def draw_monster(rng: Random) -> Drawing:
    """A monster with one to four eyes, and perhaps horns, ears, a crown, spots or stripes."""
    color, body, background, behind = _body_and_background(rng)
    eye_count, eyes_variant = _word(MONSTER_EYES, rng)
    expression, mouth_variant = _word(MONSTER_MOUTHS, rng)
    top, top_variant = ("none", "") if rng.random() < 0.2 else _word(MONSTER_TOPS, rng)
    pattern, pattern_variant = ("plain", "") if rng.random() < 0.55 else _word(MONSTER_PATTERNS, rng)
    options: dict[str, object] = {
        "bodyColor": [body],
        "backgroundColor": [behind],
        # A shade of the body's own colour keeps the colour's name true.
        "accentColor": [palette.mix(body, "#202030" if color in ("white", "yellow") else "#ffffff", 0.4)],
        "bodyVariant": rng.choice(MONSTER_BODIES),
        "eyesVariant": eyes_variant,
        "mouthVariant": mouth_variant,
        "topProbability": 100 if top_variant else 0,
        "patternProbability": 100 if pattern_variant else 0,
        "cheeksProbability": 0,
        "animationVariant": "none",
    }
    if top_variant:
        options["topVariant"] = top_variant
    if pattern_variant:
        options["patternVariant"] = pattern_variant
    attributes = {
        "color": color, "eye_count": eye_count, "expression": expression, "top": top, "pattern": pattern,
        "background": background,
    }  # fmt: skip
    return Drawing("critters", attributes, options)


def draw_landscape(rng: Random) -> Drawing:
    """Four rows of hills in shades of one colour under a sky, the background; with or without a sun."""
    hills = rng.choice(tuple(palette.HILLS))
    sky = rng.choice([name for name in SKIES if name != hills])
    sun = rng.random() < 0.6
    sun_colors = [
        c for c in ("#f7c325", "#f98f2e", "#fff3c4") if not palette.clash(c, palette.BACKGROUNDS[sky])
    ]
    options: dict[str, object] = {
        "backgroundColor": [palette.jitter(palette.BACKGROUNDS[sky], rng)],
        "orbProbability": 100 if sun else 0,
        "orbVariant": rng.choice(("sun", "glow")),
        "orbColor": [rng.choice(sun_colors)],
        "animationVariant": "none",
    }
    for row, shade in enumerate(palette.HILLS[hills], start=1):
        options[f"hill{row}Color"] = [palette.jitter(shade, rng)]
    return Drawing("landscape", {"background": sky, "hills": hills, "sun": "yes" if sun else "no"}, options)


def draw_planet(rng: Random) -> Drawing:
    """A planet among stars, with or without rings and moons, before a dark background."""
    while True:
        color, background = rng.choice(tuple(palette.BODIES)), rng.choice(tuple(palette.NIGHTS))
        if color != background:
            break
    rings = rng.random() < 0.5
    moons, moons_variant = ("no", "one") if rng.random() < 0.5 else _word(MOONS, rng)
    options = {
        "planetColor": [palette.jitter(palette.BODIES[color], rng)],
        "backgroundColor": [palette.jitter(palette.NIGHTS[background], rng)],
        "ringProbability": 100 if rings else 0,
        "ringVariant": rng.choice(("double", "bold")),
        "moonsProbability": 0 if moons == "no" else 100,
        "moonsVariant": moons_variant,
        "surfaceProbability": 85,
        "surfaceVariant": list(SURFACES),
        "shadeVariant": "soft",
        "starProbability": 90,
        "animationVariant": "none",
    }
    attributes = {
        "color": color, "rings": "yes" if rings else "no", "moons": moons, "background": background,
    }  # fmt: skip
    return Drawing("planets", attributes, options)


def draw_abstract(rng: Random) -> Drawing:
    """Three large shapes of one kind in shades of one colour."""
    color, body, background, behind = _body_and_background(rng)
    shapes = rng.choice(tuple(SHAPES))
    variants = [rng.choice(SHAPES[shapes]) for _ in range(3)]
    options: dict[str, object] = {
        "backgroundColor": [behind],
        "shape1Color": [body],
        "shape2Color": [palette.mix(body, "#ffffff", 0.22)],
        "shape3Color": [palette.mix(body, "#101020", 0.22)],
        "animationVariant": "none",
    }
    for place, variant in enumerate(variants, start=1):
        options[f"shape0{place}Variant"] = variant
    return Drawing("shapes", {"color": color, "shapes": shapes, "background": background}, options)
