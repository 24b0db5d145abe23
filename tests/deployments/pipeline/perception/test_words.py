from __future__ import annotations

import pytest

from core.errors import InvalidRequest
from deployments.pipeline.perception.words import MAX_PHRASES, phrases_of


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        ("hair", ("hair",)),
        ("  The Hair ", ("hair",)),
        ("hair, glasses and the beard", ("hair", "glasses", "beard")),
        ("hair and  glasses; a hat & her shirt", ("hair", "glasses", "hat", "shirt")),
        ("hair, and glasses", ("hair", "glasses")),
        ("hair, hair,,", ("hair",)),
        ("a black and white cat and a hand", ("black-and-white cat", "hand")),
        ("sandals\nandroid or an apple", ("sandals", "android", "apple")),
    ],
)
def test_words_are_taken_apart(words: str, phrases: tuple[str, ...]) -> None:
    assert phrases_of(words) == phrases


@pytest.mark.parametrize("words", ["", " , and ", "!?", "\n"])
def test_no_words_are_refused(words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        phrases_of(words, field="mask_prompt")
    assert caught.value.field == "mask_prompt"


def test_too_many_things_are_refused() -> None:
    many = ", ".join(f"thing {number}" for number in range(MAX_PHRASES + 1))
    with pytest.raises(InvalidRequest) as caught:
        phrases_of(many)
    assert (caught.value.field, caught.value.limit) == ("words", MAX_PHRASES)
