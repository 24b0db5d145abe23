"""The words that stand for a member's own subject in prompts: which are fit, and how one is chosen."""

from __future__ import annotations

import random
import re
from collections.abc import Collection

MAX_TRIGGER_CHARS = 40
MAX_TRIGGER_WORDS = 3
# Letters and digits of any script, joined by what prompts do not take for emphasis.
WORDS = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*(?: [^\W_]+(?:['’.-][^\W_]+)*)*")
# No English word begins with one of these and goes on in open syllables, and models have hardly met any.
_ONSETS = ("dz", "gv", "kv", "sv", "vl", "vr", "zl", "zm", "zr", "zv")
_VOWELS = "aeiou"
_MIDDLES = "bdgklmnprtvxz"
_ENDS = "bdfgkmpvxz"


def choose_trigger(taken: Collection[str], random_source: random.Random | None = None) -> str:
    """A pronounceable word of six letters that is in no English dictionary and not in ``taken``."""
    source = random_source or random.SystemRandom()
    while True:
        parts = (_ONSETS, _VOWELS, _MIDDLES, _VOWELS, _ENDS)
        word = "".join(source.choice(letters) for letters in parts)
        if word not in taken:
            return word
