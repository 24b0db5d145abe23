"""Words that stand for a subject: chosen so that they mean nothing yet."""

from __future__ import annotations

import random
import re

from serve_app.triggers import MAX_TRIGGER_CHARS, WORDS, choose_trigger

PRONOUNCEABLE = re.compile(r"[^aeiou]{2}[aeiou][^aeiou][aeiou][^aeiou]")


def test_chosen_words_are_short_pronounceable_and_fit() -> None:
    for seed in range(500):
        word = choose_trigger((), random.Random(seed))
        assert PRONOUNCEABLE.fullmatch(word)
        assert WORDS.fullmatch(word)
        assert len(word) <= MAX_TRIGGER_CHARS


def test_they_differ() -> None:
    source = random.Random(0)
    words = {choose_trigger((), source) for _ in range(200)}
    assert len(words) > 190


def test_one_that_is_taken_is_not_chosen_again() -> None:
    first = choose_trigger((), random.Random(1))
    assert choose_trigger({first}, random.Random(1)) != first
