from __future__ import annotations

import pytest
from pydantic import ValidationError

from core.settings import EMBEDDED_FAMILY
from deployments.pipeline.perception.families import FamilyFacts, facts_of
from deployments.pipeline.perception.words import phrases_of


def test_the_embedded_family_has_drawn_faces_and_others_have_photographs() -> None:
    assert facts_of(EMBEDDED_FAMILY).drawn_faces is not None
    assert facts_of("sd15").drawn_faces is None


def test_a_family_without_a_table_has_the_default_facts() -> None:
    assert facts_of("sd15") == facts_of("never heard of")


def test_the_word_for_a_face_is_one_phrase() -> None:
    drawn = facts_of(EMBEDDED_FAMILY).drawn_faces
    assert drawn is not None
    assert phrases_of(drawn.word) == (drawn.word,)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        FamilyFacts.model_validate({"empty_below": 0.5, "neutral": ["a"], "colour": "red"})
