"""Words that ask for the parts of a picture, and words for what it does not show.

Knows records, words and names of parts; does not know pixels or tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase
from typing import Final

from weights.recipe.filters import COLORLESS
from weights.recipe.parts import UNIONS
from weights.recipe.scenes import Record
from weights.recipe.words import COLOR_WORDS, GARMENTS

_PERSON: Final = UNIONS["person"]


@dataclass(frozen=True)
class Query:
    """A word and the atoms of the part map that it asks for; none where the picture shows no such thing."""

    text: str
    part: str
    atoms: tuple[str, ...]


# Every name of a part; the first is the plainest.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "hair": ("hair", "hairstyle", "haircut", "hairdo"),
    "face": ("face", "face of the person"),
    "head": ("head",),
    "skin": ("skin",),
    "neck": ("neck",),
    "clothes": ("clothes", "clothing", "outfit", "garment", "clothes of the person"),
    "mouth": ("mouth", "lips"),
    "eyes": ("eyes", "eye"),
    "beard": ("beard", "moustache", "mustache", "facial hair", "full beard"),
    "glasses": ("glasses", "spectacles", "eyeglasses", "eyewear"),
    "sunglasses": ("sunglasses", "shades", "dark glasses", "glasses"),
    "background": ("background", "backdrop", "wall", "background behind"),
    "man": ("man", "person", "guy", "gentleman", "human", "portrait"),
    "woman": ("woman", "person", "lady", "human", "portrait"),
    "robot": ("robot", "bot", "machine"),
    "monster": ("monster", "creature"),
    "planet": ("planet",),
    "rings": ("rings", "ring", "rings of the planet"),
    "moons": ("moon", "moons"),
    "sun": ("sun",),
    "hills": ("hills", "mountains", "hill"),
    "sky": ("sky", "background"),
    "space": ("space", "background", "night sky", "stars"),
    "shapes": ("shapes", "abstract shapes"),
}
# Things of no picture. Made-up words join them, so that words never seen find nothing either.
NOWHERE: Final = (
    "car", "dog", "cat", "tree", "house", "boat", "airplane", "bicycle", "chair", "table", "horse", "bird",
    "flower", "phone", "computer", "book", "bottle", "cup", "bridge", "river", "train", "bus", "truck",
    "sword", "guitar", "piano", "ball", "shoe", "bag", "umbrella", "clock", "lamp", "window", "door",
    "street", "city", "fish", "elephant", "lion", "cow", "apple", "banana", "pizza", "cake", "bread",
    "snow", "rain", "fire", "water", "beach", "knife", "spoon", "camera", "television", "bed", "sofa",
    "carpet", "fence", "ladder", "wheel", "engine", "hammer", "pencil", "paper", "key", "coin", "flag",
    "balloon", "kite", "drum", "violin", "snake", "frog", "bear", "rabbit", "mouse", "duck", "spider",
    "butterfly", "rocket", "tent", "castle", "tower", "road", "sign", "traffic light", "fire hydrant",
    "stop sign", "bench", "backpack", "tie", "hat", "helmet", "gloves", "ring finger", "watch", "necklace",
    "mask", "scarf", "belt", "food", "blood", "weapon", "nudity", "explicit sexual content", "naked person",
    "graphic violence and gore", "violence", "photo", "building", "street with people", "animal", "text",
    "logo",
)  # fmt: skip
# Kept from training, to measure false alarms with.
UNSEEN_NOWHERE: Final = (
    "zebra", "giraffe", "motorcycle", "refrigerator", "skateboard", "tennis racket", "sandwich", "keyboard",
    "toothbrush", "candle", "mushroom", "penguin", "ship", "suitcase", "teapot", "volcano",
)  # fmt: skip
_OF_PORTRAITS: Final = ("hair", "clothes", "beard", "glasses", "sunglasses", "neck")
# What nobody is sure of in a picture of this kind is neither asked for nor called absent.
_UNSURE: Final[Mapping[str, tuple[str, ...]]] = {
    "robot": ("face", "head", "skin"),
    "monster": ("face", "head", "skin"),
    "landscape": ("background",),
    "planet": ("background", "sky", "shapes", "sun"),
    "abstract": ("background", "sun", "hills"),
}
# How often a shown part is asked for, beside 1: more where it is fine, less where others nearly say it.
_WEIGHTS: Final = {
    "beard": 3.0, "eyes": 2.5, "mouth": 2.5, "glasses": 2.5, "sunglasses": 2.0, "hair": 1.5, "rings": 1.5,
    "man": 0.5, "woman": 0.5, "neck": 0.5, "skin": 0.3, "head": 0.3,
}  # fmt: skip


def _portrait_parts(record: Record) -> dict[str, tuple[str, ...]]:
    shown = record.attributes
    found = {
        "face": UNIONS["face"],
        "skin": UNIONS["skin"],
        "neck": ("neck",),
        "clothes": ("clothes",),
        "mouth": ("mouth",),
        "background": ("background",),
        record.subject: _PERSON,
        "head": ("hair", *UNIONS["face"]),
    }
    if shown["hair"] != "bald":
        found["hair"] = ("hair",)
    if shown.get("beard", "no") != "no":
        found["beard"] = ("beard",)
    glasses = shown.get("glasses", "no")
    if glasses != "no":
        found[glasses] = ("glasses",)
    if glasses != "sunglasses":
        found["eyes"] = ("eyes",)
    return found


def shown_parts(record: Record) -> dict[str, tuple[str, ...]]:
    """The parts of `NAMES` that a picture of the record shows, and their atoms."""
    if record.look:
        return _portrait_parts(record)
    if record.subject in ("robot", "monster"):
        return {
            record.subject: UNIONS["creature"],
            "eyes": ("eyes",),
            "mouth": ("mouth",),
            "background": ("background",),
        }
    if record.subject == "abstract":
        return {"shapes": ("body",), "background": ("background",)}
    if record.subject == "landscape":
        sun = {"sun": ("sun",)} if record.attributes["sun"] == "yes" else {}
        return {"hills": ("hills",), "sky": ("background",), **sun}
    found: dict[str, tuple[str, ...]] = {"planet": UNIONS["ringed planet"], "space": ("background",)}
    if record.attributes["rings"] == "yes":
        found["rings"] = ("ring",)
    if record.attributes["moons"] != "no":
        found["moons"] = ("moon",)
    return found


def absent_parts(record: Record) -> tuple[str, ...]:
    """The parts of `NAMES` that a picture of the record certainly does not show."""
    shown = shown_parts(record)
    unsure = set(_UNSURE.get(record.subject, ()))
    if record.look:
        # Sunglasses hide eyes, and who says "glasses" may mean either kind; a sky may be a background.
        unsure |= {"sky", "space", "hills"}
        unsure |= {"eyes", "glasses", "sunglasses"} if {"glasses", "sunglasses"} & set(shown) else set()
    if "background" in shown:
        unsure |= {"sky", "space"}
    return tuple(name for name in NAMES if name not in shown and name not in unsure)


def _color(name: str, rng: Random) -> str:
    return rng.choice(COLOR_WORDS.get(name, (name,)))


def _special(record: Record, part: str, rng: Random) -> str:
    """A name that only fits this record: "curly red hair", "hoodie", "blue background"; empty without one."""
    shown = record.attributes
    colored = record.style not in COLORLESS
    if part == "clothes":
        garment = rng.choice(GARMENTS.get(shown["clothes"], (shown["clothes"],)))
        color = f"{_color(shown['clothes_color'], rng)} " if colored and rng.random() < 0.5 else ""
        return f"{color}{rng.choice((garment, garment, 'clothes'))}"
    if part == "hair" and colored:
        return f"{_color(shown['hair_color'], rng)} hair"
    if part in ("background", "sky") and colored:
        return f"{_color(shown['background'], rng)} {part}"
    if part in ("robot", "monster") and colored:
        return f"{_color(shown['color'], rng)} {part}"
    if part == "mouth" and shown.get("expression") == "smiling":
        return "smile"
    return ""


def present_query(record: Record, part: str, rng: Random | None = None) -> Query:
    """The words for a part that the record shows, one of `shown_parts`; the plainest without `rng`."""
    atoms = shown_parts(record)[part]
    if rng:
        return Query(_name(record, part, rng), part, atoms)
    # Which of the two names of facial hair is the plainest, the record says.
    plainest = record.attributes["beard"] if part == "beard" else NAMES[part][0]
    return Query(plainest, part, atoms)


def _name(record: Record, part: str, rng: Random) -> str:
    special = _special(record, part, rng) if rng.random() < 0.3 else ""
    # The plainest name is half of all.
    name = special or (NAMES[part][0] if rng.random() < 0.5 else rng.choice(NAMES[part]))
    articles = ["", "", "", "the ", "the "]
    if record.look:
        owner = "his" if record.subject == "man" else "her"
        articles += [f"{owner} " if part not in ("background", record.subject) else "the "]
        if part == record.subject:
            articles.append("a ")
    return rng.choice(articles) + name


def _nonsense(rng: Random) -> str:
    return "".join(rng.choice(ascii_lowercase) for _ in range(rng.randint(3, 8)))


def nowhere_phrases(rng: Random, num: int) -> tuple[str, ...]:
    """Phrases for what no picture shows."""
    words = [rng.choice(NOWHERE) if rng.random() < 0.8 else _nonsense(rng) for _ in range(num)]
    return tuple(rng.choice(("", "a ", "a picture of a ")) + word for word in words)


def absent_query(record: Record, rng: Random) -> Query:
    """A word for something that the picture does not show: most of them parts of other pictures."""
    kind = rng.random()
    if kind < 0.65:
        part = rng.choice(absent_parts(record))
        # "glasses" and "background" are names of shown parts too.
        taken = {name for shown in shown_parts(record) for name in NAMES[shown]}
        names = [name for name in NAMES[part] if name not in taken]
        if names:
            return Query(rng.choice(("", "", "the ", "a ")) + rng.choice(names), part, ())
    return Query(rng.choice(nowhere_phrases(rng, 1)), "nowhere", ())


def draw_query(record: Record, rng: Random, absent_share: float = 0.22) -> Query:
    """A word to segment the picture by."""
    if rng.random() < absent_share:
        return absent_query(record, rng)
    shown = shown_parts(record)
    part = rng.choices(tuple(shown), [_WEIGHTS.get(name, 1.0) for name in shown])[0]
    return present_query(record, part, rng)
