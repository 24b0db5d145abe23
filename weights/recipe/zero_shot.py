"""Phrases that tell the attributes of a picture apart without training (zero-shot), and which are true.

Knows records and words; does not know pixels or tensors.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from weights.recipe.filters import COLORLESS
from weights.recipe.scenes import ATTRIBUTE_VALUES, Record

# Ways to say each value of an attribute, with {} for the value's name; the first is the plainest.
_WAYS: Final[Mapping[str, Mapping[str, tuple[str, ...]] | tuple[str, ...]]] = {
    "subject": (
        "a {}",
        "{}",
        "a picture of a {}",
        "a portrait of a {}",
        "portrait of a {}",
        "an illustration of a {}",
    ),
    "look": ("a {} portrait", "{} portrait", "a {} picture of a person"),
    "background": ("a {} background", "{} background", "on a {} background"),
    "skin": ("{} skin", "a person with {} skin"),
    "hair_color": ("{} hair", "a person with {} hair"),
    "clothes_color": ("{} clothes", "a person wearing {} clothes"),
    "expression": ("{}", "a {} face", "a {} person"),
    "glasses": {
        "no": ("no glasses", "a person without glasses"),
        "glasses": ("glasses", "a person wearing glasses", "a person with glasses"),
        "sunglasses": ("sunglasses", "a person wearing sunglasses", "a person with sunglasses"),
    },
    "beard": {
        "no": ("no beard", "clean-shaven", "a person without a beard"),
        "beard": ("a beard", "a man with a beard", "beard"),
        "moustache": ("a moustache", "a man with a moustache", "moustache"),
    },
}
KEYS: Final = tuple(_WAYS)
_NOUNS: Final = {"abstract": "abstract shapes"}


def _fitted(text: str) -> str:
    return text.replace("a abstract", "abstract").replace("a orange", "an orange")


def phrases(key: str, rng: Random | None = None) -> tuple[str, ...]:
    """One phrase for each value of `ATTRIBUTE_VALUES[key]`, said alike; the plainest way without `rng`."""
    ways = _WAYS[key]
    if isinstance(ways, tuple):
        chosen = [rng.choice(ways) if rng else ways[0]] * len(ATTRIBUTE_VALUES[key])
        if rng and rng.random() < 0.3:
            chosen = rng.choices(ways, k=len(chosen))
        pairs = zip(chosen, ATTRIBUTE_VALUES[key], strict=True)
        return tuple(_fitted(way.format(_NOUNS.get(value, value))) for way, value in pairs)
    place = rng.randrange(min(map(len, ways.values()))) if rng else 0
    return tuple(ways[value][place] for value in ATTRIBUTE_VALUES[key])


def facts_of(record: Record) -> dict[str, str]:
    """The attributes of `KEYS` that a picture of the record shows, with their values.

    Colours are left out where the style hides them, and the night colours of planets, which have the names of
    other backgrounds' colours. A portrait without a word on beard or glasses has none.
    """
    facts = {key: value for key, value in record.labels().items() if key in KEYS}
    if record.look:
        facts = {"beard": "no", "glasses": "no", **facts}
    hidden = {"background"} if record.subject == "planet" else set()
    if record.style in COLORLESS:
        hidden |= {"background", "skin", "hair_color", "clothes_color"}
    return {key: value for key, value in facts.items() if key not in hidden}


def indices(records: Sequence[Record], key: str, unknown: int) -> list[int]:
    """Index of each record's value of key in `ATTRIBUTE_VALUES`; unknown where it does not show one."""
    facts = [facts_of(record) for record in records]
    return [ATTRIBUTE_VALUES[key].index(fact[key]) if key in fact else unknown for fact in facts]
