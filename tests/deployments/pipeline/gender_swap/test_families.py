from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from core.specs import Presentation
from deployments.pipeline.gender_swap.families import FamilyFacts, Question, facts_of

TARGETS = tuple(set(Presentation) - {Presentation.AUTO})
LEAST: dict[str, Any] = {
    "strength_exponent": 0.5,
    "painted": "hair",
    "grow": 0.1,
    "feather": 0.1,
    "tolerance": 4,
    "presentation": {"a woman": "woman"},
    "targets": {
        target: {"subject": "a person", "named": "{trigger} person", "prompt": ["{subject}"]}
        for target in TARGETS
    },
}


@pytest.mark.parametrize("family", ["mini", "sd15", "custom"])
def test_every_family_has_words_for_every_target(family: str) -> None:
    facts = facts_of(family)
    assert all(facts.words_for(target).prompt for target in TARGETS)
    assert facts.words_for(Presentation.WOMAN) != facts.words_for(Presentation.MAN)
    assert all(facts.words_for(target).hair is not None for target in (Presentation.WOMAN, Presentation.GIRL))


def test_photographs_are_asked_for_decently() -> None:
    facts = facts_of("sd15")
    assert {"nsfw", "disfigured"} <= set(facts.negative)
    for target in TARGETS:
        said = ", ".join(facts.words_for(target).prompt)
        assert "realistic" in said
        assert "fully clothed" in said
        assert "studio lighting" in said


@pytest.mark.parametrize("family", ["mini", "sd15"])
def test_the_strength_of_a_family_rises_with_the_one_asked_for(family: str) -> None:
    facts = facts_of(family)
    strengths = [facts.strength(asked) for asked in (0.01, 0.3, 0.6, 0.9, 1.0)]
    assert strengths == sorted(set(strengths))
    assert strengths[-1] == 1.0
    assert facts.strength(1.1) == 1.0


def test_photographs_take_the_strength_as_it_is() -> None:
    assert facts_of("sd15").strength(0.6) == 0.6


def test_the_likeliest_answer_is_said_unless_it_goes_without_saying() -> None:
    question = Question(phrase="with {}", answers=("no hat", "a hat"), unsaid=("no hat",))
    assert question.phrases == ("with no hat", "with a hat")
    assert question.answer({"with no hat": 0.2, "with a hat": 0.8}) == "a hat"
    assert question.answer({"with no hat": 0.9, "with a hat": 0.1}) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": {"woman": LEAST["targets"]["woman"]}},
        {"targets": LEAST["targets"] | {"man": LEAST["targets"]["man"] | {"prompt": ["{hat} on a man"]}}},
        {"targets": LEAST["targets"] | {"man": LEAST["targets"]["man"] | {"named": "a man"}}},
        {"unknown": 1},
        {"strength_exponent": 0.0},
    ],
    ids=[
        "a target without words",
        "an answer to no question",
        "nobody named",
        "an unknown key",
        "an exponent of 0",
    ],
)
def test_incomplete_facts_are_refused(changes: dict[str, Any]) -> None:
    FamilyFacts.model_validate(LEAST)
    with pytest.raises(ValidationError):
        FamilyFacts.model_validate(LEAST | changes)
