"""Captions of the training pictures: sentences, comma lists and short prompts, all of them true.

Knows how phrases are put together; the words of a single fact are in `words`.
"""

import re
from collections.abc import Sequence
from random import Random

from weights.recipe.scenes import Record
from weights.recipe.words import Choose, Phrase, Ways, ways, without_article

_NOUNS = {
    "man": (*["man"] * 9, "guy", "guy", "gentleman", "male person"),
    "woman": (*["woman"] * 9, "lady", "lady", "female person"),
    "robot": ("robot", "robot", "robot", "bot"),
    "monster": ("monster", "monster", "monster", "creature"),
    "landscape": ("landscape",),
    "planet": ("planet",),
    "abstract": ("shapes",),
}
_FORMS = {
    "man": ("portrait", "portrait", "avatar", "illustration", "picture", "drawing", "profile picture"),
    "abstract": ("picture", "art", "illustration", "composition", "painting"),
    "landscape": ("illustration", "picture", "drawing", "image", "painting"),
    "planet": ("illustration", "picture", "drawing", "image"),
    "other": ("illustration", "picture", "drawing", "image", "picture", "avatar"),
}
_LOOKS = {
    "cartoon": ("cartoon", "cartoon", "cartoon style", "toon"),
    "flat": ("flat", "flat", "flat design", "flat vector"),
    "minimal": ("minimal", "minimal", "minimalist", "simple"),
}
# {} is the form ("portrait") of the picture.
_STYLE_HEADS = {
    "black and white": ("black and white {}", "black and white {}", "black-and-white {}", "monochrome {}"),
    "sepia": ("sepia {}", "sepia toned {}", "old sepia {}"),
    "pixel art": ("pixel art {}", "pixel art", "8-bit pixel art"),
    "sketch": ("sketch", "pencil sketch", "pencil drawing", "sketch {}"),
    "poster": ("poster", "poster style {}", "pop art poster"),
    "pastel": ("pastel {}", "soft pastel {}", "pastel drawing"),
    "neon": ("neon {}", "neon light {}", "glowing neon {}"),
    "watercolor": ("watercolor painting", "watercolor {}", "watercolour painting"),
    "oil painting": ("oil painting", "oil painting {}"),
}
_STYLE_TAILS = {
    "black and white": ("black and white", "in black and white", "monochrome"),
    "sepia": ("sepia", "in sepia tones", "sepia tone"),
    "pixel art": ("pixel art", "pixelated", "8-bit style"),
    "sketch": ("sketch", "pencil sketch", "hand-drawn sketch"),
    "poster": ("poster", "poster style", "pop art poster"),
    "pastel": ("pastel", "pastel colors", "soft pastel colours"),
    "neon": ("neon", "neon lights", "glowing neon"),
    "watercolor": ("watercolor", "watercolour", "watercolor painting"),
    "oil painting": ("oil painting", "painted in oil"),
}
# What is absent is seldom said.
_NEGATIVE = {"beard": 0.2, "glasses": 0.1, "sun": 0.15, "rings": 0.15, "moons": 0.1}
_KEEP = (0.35, 0.6, 0.8, 0.95, 1.0)
_PLURAL = frozenset({"shapes", "circles", "triangles", "squares", "lines"})


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\b([Aa]) (?=[aeiou8](?!ne\b|ne-))", r"\1n ", text)


def _joined(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _with_article(noun: str) -> str:
    return noun if noun.rpartition(" ")[2] in _PLURAL else f"a {noun}"


def _head(record: Record, choose: Choose, *, look: bool, style: bool) -> str:
    """The kind of picture: "cartoon portrait", "pencil sketch", "abstract art"."""
    kind = "man" if record.look else record.subject
    form = choose(_FORMS.get(kind, _FORMS["other"]))
    if record.subject == "abstract":
        form = f"abstract {form}"
    if look and record.look:
        form = f"{choose(_LOOKS[record.look])} {form}"
    return choose(_STYLE_HEADS[record.style]).format(form) if style and record.style else form


def _noun(record: Record, phrases: Sequence[Phrase], choose: Choose) -> str:
    # A colour stands next to its noun: "a smiling purple monster".
    near_last = sorted(phrases, key=lambda phrase: phrase.keys == ("color",))
    adjectives = [phrase.text for phrase in near_last if phrase.role == "adjective"]
    nouns = [phrase.text for phrase in phrases if phrase.role == "noun"]
    return " ".join([*adjectives, nouns[0] if nouns else choose(_NOUNS[record.subject])])


def _chosen(said: dict[str, Ways], record: Record, rng: Random, keep: float) -> list[Phrase]:
    """One way to say each fact that is kept, in random order."""
    chosen = []
    for key, alternatives in said.items():
        absent = record.attributes.get(key) == "no"
        if rng.random() < (_NEGATIVE[key] if absent else keep):
            # The first way is the plainest and half of all.
            chosen.append(alternatives[0] if rng.random() < 0.4 else rng.choice(alternatives))
    rng.shuffle(chosen)
    return chosen


def _sentence(record: Record, phrases: Sequence[Phrase], rng: Random) -> str:
    style_first = rng.random() < 0.6
    look = rng.random() < (0.45 if record.style else 0.7)
    noun = _with_article(_noun(record, phrases, rng.choice))
    if (record.style and style_first) or rng.random() < 0.75 or record.subject == "abstract":
        head = _head(record, rng.choice, look=look, style=style_first)
        # "art of a landscape" and the like need no article before them.
        noun = f"{'a ' if rng.random() < 0.6 else ''}{head} of {noun}"
    elif look and record.look:
        noun = f"a {rng.choice(_LOOKS[record.look])} {without_article(noun)}"
    clauses = []
    having = [phrase.text for phrase in phrases if phrase.role == "with"]
    wearing = [phrase.text for phrase in phrases if phrase.role == "wearing"]
    if having:
        clauses.append(f"with {_joined(having)}")
    if wearing:
        clauses.append(f"wearing {_joined(wearing)}")
    rng.shuffle(clauses)
    clauses += [phrase.text for phrase in phrases if phrase.role == "place"]
    text = " ".join([noun, *clauses])
    if record.style and not (style_first and " of " in text):
        text += f", {rng.choice(_STYLE_TAILS[record.style])}"
    return text


def _list(record: Record, phrases: Sequence[Phrase], rng: Random) -> str:
    style_first = rng.random() < 0.5
    look = rng.random() < (0.45 if record.style else 0.7)
    before = [phrase for phrase in phrases if phrase.role == "noun"]
    before += [phrase for phrase in phrases if phrase.role == "adjective" and rng.random() < 0.6]
    noun = _noun(record, before, rng.choice)
    head = _head(record, rng.choice, look=look, style=style_first)
    layout = rng.random()
    if layout < 0.6:
        opening = [f"{head} of {_with_article(noun)}"]
    elif layout < 0.8 or record.subject == "abstract":
        opening = [head, noun]
    else:
        opening = [noun]
        style_first = False
        if look and record.look:
            opening = [f"{rng.choice(_LOOKS[record.look])} {noun}"]
    items = [phrase.item for phrase in phrases if phrase not in before]
    if record.style and not style_first:
        items.insert(rng.choice((0, len(items))), rng.choice(_STYLE_TAILS[record.style]))
    return ", ".join(opening + items)


def _short(record: Record, said: dict[str, Ways], rng: Random) -> str:
    """A prompt of at most one fact, as people type them."""
    present = [key for key in said if record.attributes.get(key) not in ("no", "none", "plain")]
    phrases = [rng.choice(said[rng.choice(present)])] if present and rng.random() < 0.6 else []
    if record.style or rng.random() < 0.5:
        return _sentence(record, phrases, rng)
    noun = _noun(record, phrases, rng.choice)
    rest = [phrase for phrase in phrases if phrase.role not in ("adjective", "noun")]
    if record.subject == "abstract":
        noun = f"abstract {noun}"
    clauses = [phrase.text if phrase.role == "place" else f"{phrase.role} {phrase.text}" for phrase in rest]
    return " ".join([_with_article(noun) if rng.random() < 0.7 else noun, *clauses])


def caption(record: Record, rng: Random) -> str:
    """A lower-case caption that says some of the record's facts and nothing untrue.

    `rng` decides on the form, the facts, their order and their synonyms.
    """
    said = ways(record, rng.choice)
    kind = rng.random()
    if kind < 0.13:
        return _tidy(_short(record, said, rng))
    phrases = _chosen(said, record, rng, rng.choice(_KEEP))
    return _tidy(_sentence(record, phrases, rng) if kind < 0.58 else _list(record, phrases, rng))


def canonical(record: Record) -> str:
    """The caption that says every fact the picture shows, in a fixed order and the plainest words."""

    def first(options: Sequence[str]) -> str:
        return options[0]

    phrases = [alternatives[0] for alternatives in ways(record, first).values()]
    head = _head(record, first, look=True, style=True)
    items = [phrase.item for phrase in phrases if phrase.role not in ("adjective", "noun")]
    return _tidy(", ".join([f"{head} of {_with_article(_noun(record, phrases, first))}", *items]))
