"""Captions: varied, grammatical, and never saying what the picture does not show."""

import re
from collections.abc import Iterator
from random import Random

import pytest

from weights.recipe import palette, scenes
from weights.recipe.captions import canonical, caption
from weights.recipe.filters import COLORLESS, FILTERS
from weights.recipe.scenes import Record
from weights.recipe.words import COLOR_WORDS

_PLAIN_NAME = {word: name for name, words in COLOR_WORDS.items() for word in words}
_COLORS = {*palette.BACKGROUNDS, *palette.HAIR, *palette.SKIN, *palette.HILLS, *_PLAIN_NAME}
_COUNTS = {"one", "two", "three", "four"}
_STYLE_MARKS = {
    "black and white": "black.and.white|monochrome",
    "sepia": "sepia",
    "pixel art": "pixel|8-bit",
    "sketch": "sketch|pencil",
    "poster": "poster",
    "pastel": "pastel",
    "neon": "neon",
    "watercolor": "watercolou?r",
    "oil painting": "oil",
}
WOMAN = Record(
    seed=1,
    subject="woman",
    look="flat",
    style="",
    attributes={
        "expression": "smiling",
        "skin": "tan",
        "hair": "long straight",
        "hair_color": "blonde",
        "glasses": "glasses",
        "clothes": "hoodie",
        "clothes_color": "red",
        "background": "blue",
    },
)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [scenes.draw(seed) for seed in range(300)]


def _captions(records: list[Record], per_record: int = 8) -> Iterator[tuple[Record, str]]:
    for record in records:
        for number in range(per_record):
            yield record, caption(record, Random(f"{record.seed} {number}"))


def _named(words: list[str]) -> set[str]:
    return {_PLAIN_NAME.get(word, word) for word in words}


def test_same_rng_gives_the_same_caption() -> None:
    assert caption(WOMAN, Random(5)) == caption(WOMAN, Random(5))


def test_captions_of_one_record_vary() -> None:
    said = {caption(WOMAN, Random(seed)) for seed in range(200)}

    assert len(said) > 190
    assert any(text.startswith("a ") and " with " in text for text in said)
    assert any(text.count(",") >= 4 for text in said)


def test_a_share_of_the_captions_is_short() -> None:
    lengths = [len(caption(WOMAN, Random(seed)).split()) for seed in range(1000)]

    assert 0.05 < sum(length <= 5 for length in lengths) / 1000 < 0.3


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        (r"(\w+) (?:background|wall|backdrop|sky|night sky)\b", "background"),
        (r"(\w+)(?: skin\b|-skinned)", "skin"),
        (r"(\w+) (?:hoodie|dress|sweater|t-shirt|tee|blazer|jumper|turtleneck|clothes)\b", "clothes_color"),
        (r"(\w+)-haired", "hair_color"),
        (r"(\w+)-eyed", "eye_count"),
    ],
)
def test_named_values_are_the_pictures_own(records: list[Record], pattern: str, key: str) -> None:
    seen = 0
    for record, text in _captions(records):
        for name in _named(re.findall(pattern, text)):
            if name not in _COLORS | _COUNTS:
                continue
            assert name == record.attributes.get(key), text
            seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    ("pattern", "key", "values"),
    [
        (r"(?<!no )\b(?:eye)?glasses\b", "glasses", {"glasses"}),
        (r"\bsunglasses\b", "glasses", {"sunglasses"}),
        (r"\bno glasses\b", "glasses", {"no"}),
        (r"\bbeard(?:ed)?\b", "beard", {"beard"}),
        (r"\bmou?stache\b", "beard", {"moustache"}),
        (r"\bclean-shaven\b", "beard", {"no"}),
        (r"\bbald\b", "hair", {"bald"}),
        (r"\bbalding\b", "hair", {"balding"}),
        (r"\bpigtails\b", "hair", {"pigtails"}),
        (r"\blong\b(?=[^,]* hair)", "hair", {"long straight", "long wavy"}),
        (r"(?<!no )\brings?\b", "rings", {"yes"}),
        (r"(?<!no )\bsun\b", "sun", {"yes"}),
        (r"\btwo moons\b", "moons", {"two"}),
    ],
)
def test_a_word_is_said_only_where_it_is_true(
    records: list[Record], pattern: str, key: str, values: set[str]
) -> None:
    told = [record for record, text in _captions(records) if re.search(pattern, text)]

    assert told
    for record in told:
        assert record.attributes.get(key) in values


def test_the_right_noun_is_used(records: list[Record]) -> None:
    male, female = r"\b(?:man|guy|gentleman|male)\b", r"\b(?:woman|lady|female)\b"
    for record, text in _captions(records):
        assert bool(re.search(male, text)) == (record.subject == "man"), text
        assert bool(re.search(female, text)) == (record.subject == "woman"), text


def test_the_style_is_always_said(records: list[Record]) -> None:
    for record, text in _captions(records):
        if record.style:
            assert re.search(_STYLE_MARKS[record.style], text), text
        assert not re.search("black.and.white|sepia|pixel|sketch|neon", text) or record.style


@pytest.mark.parametrize("style", sorted(COLORLESS))
def test_hidden_colours_are_not_said(records: list[Record], style: str) -> None:
    hidden = [Record(r.seed, r.subject, r.look, style, r.attributes) for r in records[:150]]
    texts = [text for _, text in _captions(hidden)] + [canonical(record) for record in hidden]
    for text in texts:
        words = {
            word.strip(",") for word in re.sub("black.and.white|light bulb|neon light", "", text).split()
        }
        assert not words & _COLORS, text
        assert "skin" not in text


def test_visible_colours_are_said_under_other_styles() -> None:
    for style in sorted(set(FILTERS) - COLORLESS):
        text = canonical(Record(1, "woman", "flat", style, WOMAN.attributes))
        assert "blue background" in text
        assert "red hoodie" in text


def test_captions_are_tidy(records: list[Record]) -> None:
    for record, text in _captions(records):
        for said in (text, canonical(record)):
            assert said == said.lower().strip()
            assert not re.search(r"  |,,| ,|\ba [aei8]|\ban [bcdfgklmnprstvw]|\{|\}", said), said


def test_canonical_says_every_fact() -> None:
    assert canonical(WOMAN) == (
        "flat portrait of a smiling woman, tan skin, long straight blonde hair, glasses, red hoodie, "
        "blue background"
    )


def test_canonical_says_what_is_absent() -> None:
    facts = {"hair": "bald", "beard": "no", "glasses": "no", "background": "white"}

    text = canonical(Record(1, "man", "minimal", "", facts))

    assert text == "minimal portrait of a bald clean-shaven man, no glasses, white background"
