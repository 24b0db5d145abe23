"""What a client names, taken apart: "the hair, glasses and beard" are three things."""

from __future__ import annotations

import re

from core.errors import InvalidRequest

MAX_PHRASES = 8
_SEPARATOR = re.compile(r"\s*[,;&\n]\s*|\s+(?:and|or)\s+", re.IGNORECASE)
_LEADING = re.compile(r"^(?:(?:and|or|the|a|an|his|her|their|its)(?:\s+|$))+", re.IGNORECASE)
# The one "and" that joins no two things.
_BLACK_AND_WHITE = re.compile(r"\bblack and white\b", re.IGNORECASE)


def phrases_of(words: str, field: str = "words") -> tuple[str, ...]:
    """The things that ``words`` name, separated by commas or "and", without articles, each once.

    Raises:
        InvalidRequest: naming ``field``, for none or more than ``MAX_PHRASES``.
    """
    kept = _BLACK_AND_WHITE.sub("black-and-white", words)
    named = (_LEADING.sub("", " ".join(part.split())) for part in _SEPARATOR.split(kept))
    phrases = tuple(dict.fromkeys(phrase.casefold() for phrase in named if re.search(r"\w", phrase)))
    if not phrases:
        raise InvalidRequest("No words to look for.", field=field)
    if len(phrases) > MAX_PHRASES:
        raise InvalidRequest(
            f"At most {MAX_PHRASES} things can be looked for at once.", field=field, limit=MAX_PHRASES
        )
    return phrases
