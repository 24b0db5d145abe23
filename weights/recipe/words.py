"""The words of the training captions: how each fact of a record can be said.

Knows one fact at a time and its synonyms; does not know how a caption is put together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from weights.recipe.filters import COLORLESS
from weights.recipe.scenes import Record

Role = Literal["adjective", "noun", "with", "wearing", "place"]


@dataclass(frozen=True)
class Phrase:
    """One way to say a fact.

    `role` is its place in a sentence, `item` its form in a comma list, `keys` the facts it states.
    """

    role: Role
    text: str
    item: str
    keys: tuple[str, ...]


# Every way to say one fact (or two that belong together), the plainest first.
Ways = Sequence[Phrase]
Choose = Callable[[Sequence[str]], str]

# Synonyms of colours; the first is by far the most frequent.
COLOR_WORDS: Mapping[str, tuple[str, ...]] = {
    "grey": ("grey", "grey", "gray"),
    "purple": ("purple", "purple", "purple", "violet"),
    "teal": ("teal", "teal", "teal", "turquoise"),
    "blonde": ("blonde", "blonde", "blond"),
}
EXPRESSIONS: Mapping[str, tuple[str, ...]] = {
    "smiling": ("smiling", "smiling", "happy"),
    "laughing": ("laughing", "laughing", "cheerful"),
    "sad": ("sad", "sad", "unhappy"),
    "surprised": ("surprised", "surprised", "shocked"),
    "serious": ("serious", "serious", "neutral"),
    "angry": ("angry", "angry", "grumpy"),
    "winking": ("winking",),
}
HAIR: Mapping[str, tuple[str, ...]] = {
    "short": ("short {} hair",),
    "spiky": ("spiky {} hair",),
    "side-parted": ("side-parted {} hair", "combed {} hair"),
    "curly": ("curly {} hair",),
    "quiff": ("a {} quiff", "{} hair in a quiff"),
    "mohawk": ("a {} mohawk", "{} mohawk hair"),
    "balding": ("balding {} hair", "thin {} hair"),
    "long straight": ("long straight {} hair", "long {} hair", "straight {} hair"),
    "long wavy": ("long wavy {} hair", "long {} hair", "wavy {} hair"),
    "shoulder-length": ("shoulder-length {} hair", "medium length {} hair"),
    "bob": ("a {} bob", "{} bob hair"),
    "bun": ("{} hair in a bun", "a {} bun", "a {} hair bun"),
    "afro": ("a {} afro", "{} afro hair"),
    "dreadlocks": ("{} dreadlocks",),
    "pigtails": ("{} pigtails", "{} hair in pigtails"),
}
GARMENTS: Mapping[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "t-shirt", "shirt", "tee"),
    "sweater": ("sweater", "sweater", "jumper"),
    "blazer": ("blazer", "blazer", "suit jacket"),
    "turtleneck": ("turtleneck", "turtleneck sweater"),
    "overalls": ("overalls", "overalls", "dungarees"),
    "checkered shirt": ("checkered shirt", "plaid shirt", "shirt"),
}
WITH: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "head": {"round": ("a round head",), "square": ("a square head",)},
    "eyes": {
        "round": ("round eyes", "small round eyes"),
        "bulging": ("bulging eyes", "big eyes"),
        "glowing": ("glowing eyes",),
        "happy": ("happy eyes",),
        "visor": ("a visor",),
        "goggles": ("goggles",),
        "screen": ("screen eyes", "a screen for eyes"),
    },
    "mouth": {
        "smile": ("a smile", "a smiling mouth"),
        "grill": ("a grill mouth", "a grill"),
        "teeth": ("teeth", "a mouth full of teeth"),
        "screen": ("a screen mouth", "a screen for a mouth"),
        "straight": ("a straight mouth",),
    },
    "top": {
        "antenna": ("an antenna", "an antenna on its head"),
        "light bulb": ("a light bulb", "a light bulb on its head"),
        "horns": ("horns", "two horns"),
        "pyramid": ("a pyramid on its head", "a pointed hat"),
        "radar": ("a radar dish", "a radar dish on its head"),
        "antennae": ("antennae", "two antennae"),
        "ears": ("ears", "two ears"),
        "spikes": ("spikes", "spikes on its head"),
        "crown": ("a crown",),
        "leaf": ("a leaf on its head", "a sprout on its head"),
    },
    "pattern": {"spotted": ("spots",), "striped": ("stripes",)},
    "sun": {"yes": ("a sun", "the sun"), "no": ("no sun",)},
    "rings": {"yes": ("rings", "a ring"), "no": ("no rings",)},
    "moons": {"one": ("a moon", "one moon"), "two": ("two moons",), "no": ("no moons",)},
    "glasses": {"glasses": ("glasses", "eyeglasses"), "sunglasses": ("sunglasses",), "no": ("no glasses",)},
    "beard": {"beard": ("a beard", "a full beard"), "moustache": ("a moustache", "a mustache"), "no": ()},
    "eye_count": {n: (f"{n} eye{'' if n == 'one' else 's'}",) for n in ("one", "two", "three", "four")},
}
ADJECTIVES: Mapping[str, Mapping[str, str]] = {
    "head": {"round": "round-headed", "square": "square-headed"},
    "mouth": {"smile": "smiling"},
    "pattern": {"spotted": "spotted", "striped": "striped"},
    "rings": {"yes": "ringed"},
    "beard": {"beard": "bearded", "no": "clean-shaven"},
    "eye_count": {n: f"{n}-eyed" for n in ("one", "two", "three", "four")},
}


def without_article(text: str) -> str:
    """The text without a leading "a", "an" or "the"."""
    first, _, rest = text.partition(" ")
    return rest if first in ("a", "an", "the") else text


def _phrase(role: Role, text: str, *keys: str) -> Phrase:
    return Phrase(role, text, text if role == "adjective" else without_article(text), keys)


def _of_tables(key: str, value: str) -> list[Phrase]:
    found = [_phrase("with", text, key) for text in WITH.get(key, {}).get(value, ())]
    adjective = ADJECTIVES.get(key, {}).get(value)
    if adjective:
        found.append(_phrase("adjective", adjective, key))
    if key == "glasses" and value != "no":
        found += [_phrase("wearing", phrase.text, key) for phrase in found]
    return found


def _hair(style: str, color: str) -> list[Phrase]:
    if style == "bald":
        return [_phrase("adjective", "bald", "hair"), _phrase("with", "a bald head", "hair")]
    both = ("hair", "hair_color") if color else ("hair",)
    ways = [_phrase("with", text.format(color), *both) for text in HAIR[style]]
    if style == "balding":
        ways.append(_phrase("adjective", "balding", "hair"))
    if color:
        ways.append(_phrase("with", f"{color} hair", "hair_color"))
        adjective = color if color.startswith("blond") else f"{color}-haired"
        ways.append(_phrase("adjective", adjective, "hair_color"))
        ways.append(_phrase("with", HAIR[style][0].format(""), "hair"))
    return ways


def _clothes(garment: str, color: str, choose: Choose) -> list[Phrase]:
    word = choose(GARMENTS.get(garment, (garment,)))
    article = "" if garment == "overalls" else "a "
    ways = [_phrase("wearing", f"{article}{color} {word}", "clothes", *(["clothes_color"] if color else []))]
    if color:
        ways.append(_phrase("wearing", f"{color} clothes", "clothes_color"))
    return ways


def _background(subject: str, color: str) -> list[Phrase]:
    key = "background"
    on = Phrase("place", f"on a {color} background", f"{color} background", (key,))
    if subject == "landscape":
        under = Phrase("place", f"under a {color} sky", f"{color} sky", (key,))
        return [under, under, _phrase("with", f"a {color} sky", key), on]
    if subject == "planet":
        dark = color if color == "black" else f"dark {color}"
        night = Phrase("place", f"in a {color} night sky", f"{color} night sky", (key,))
        space = Phrase("place", f"in {dark} space", f"{dark} space", (key,))
        return [
            on,
            on,
            night,
            space,
            Phrase("place", f"on a {dark} background", f"{dark} background", (key,)),
        ]
    return [
        on,
        on,
        Phrase("place", f"against a {color} background", f"{color} background", (key,)),
        Phrase("place", f"in front of a {color} wall", f"{color} wall", (key,)),
        Phrase("place", f"on a {color} backdrop", f"{color} backdrop", (key,)),
        Phrase("with", f"a {color} background", f"{color} background", (key,)),
    ]


def _ways_of(
    record: Record, key: str, value: str, color: Callable[[str], str], choose: Choose
) -> list[Phrase]:
    colored = record.style not in COLORLESS
    if key == "background":
        return _background(record.subject, color(value)) if colored else []
    if key == "color":
        return [_phrase("adjective", color(value), key)] if colored else []
    if key == "skin":
        ways = [_phrase("with", f"{value} skin", key), _phrase("adjective", f"{value}-skinned", key)]
        return ways if colored else []
    if key == "expression":
        return [_phrase("adjective", choose(EXPRESSIONS[value]), key)]
    if key == "hair":
        hair_color = record.attributes.get("hair_color", "")
        return _hair(value, color(hair_color) if colored and hair_color else "")
    if key == "clothes":
        return _clothes(value, color(record.attributes["clothes_color"]) if colored else "", choose)
    if key == "hills":
        name = color(value) if colored else ""
        texts = (f"{name} hills", f"rolling {name} hills", f"{name} mountains")
        return [_phrase("with", text, key) for text in texts]
    if key == "shapes":
        return [_phrase("noun", value, key)]
    return _of_tables(key, value)


def ways(record: Record, choose: Choose) -> dict[str, Ways]:
    """For each fact that can be seen and said, every way to say it; `choose` picks among synonyms.

    Colours are absent when the record's style hides them; a `hair_color` is said with `hair`,
    a `clothes_color` with `clothes`.
    """

    def color(name: str) -> str:
        return choose(COLOR_WORDS.get(name, (name,)))

    found = {
        key: _ways_of(record, key, value, color, choose)
        for key, value in record.attributes.items()
        if key not in ("hair_color", "clothes_color")
    }
    return {key: said for key, said in found.items() if said}
