from __future__ import annotations

import pytest

from core.specs import Presentation
from deployments.pipeline.gender_swap.families import FamilyFacts, facts_of
from deployments.pipeline.gender_swap.wording import wording_of
from tests.deployments.pipeline.gender_swap.studio import spec_of
from tests.fakes import FakePerception

MINI, PHOTO = facts_of("mini"), facts_of("sd15")


def answers(facts: FamilyFacts, **chosen: str) -> dict[str, dict[str, float]]:
    """The first answer to every question but those of ``chosen``."""
    told = {}
    for name, question in facts.questions.items():
        said = chosen.get(name, question.answers[0])
        told[name] = {question.phrase.format(one): float(one == said) for one in question.answers}
    return told


async def test_the_prompt_keeps_what_the_picture_shows() -> None:
    perception = FakePerception(
        answers=answers(
            MINI,
            look="flat",
            expression="sad",
            skin="dark",
            hair="blonde",
            glasses="sunglasses",
            clothes="teal",
            background="orange",
        )
    )
    wording = await wording_of(spec_of(), MINI, perception.describe)
    assert wording.prompt == (
        "flat portrait of a woman, sad, dark skin, long straight blonde hair, sunglasses, teal clothes, "
        "orange background"
    )
    assert wording.negative_prompt == "portrait of a man, short hair, beard"
    assert wording.hair == MINI.targets[Presentation.WOMAN].hair


async def test_what_is_absent_is_not_said() -> None:
    perception = FakePerception(answers=answers(MINI, glasses="no glasses"))
    wording = await wording_of(spec_of(target=Presentation.MAN), MINI, perception.describe)
    assert "glasses" not in wording.prompt
    assert ", , " not in wording.prompt


async def test_the_requests_own_words_come_last() -> None:
    spec = spec_of(prompt="a red hat", negative_prompt="earrings")
    wording = await wording_of(spec, MINI, FakePerception(answers=answers(MINI)).describe)
    assert wording.prompt.endswith(" background, a red hat")
    assert wording.negative_prompt.endswith("beard, earrings")


async def test_nothing_is_asked_about_a_photograph_whose_target_is_named() -> None:
    perception = FakePerception()
    wording = await wording_of(spec_of(target=Presentation.BOY), PHOTO, perception.describe)
    assert perception.asked == []
    assert "young boy" in wording.prompt


@pytest.mark.parametrize(
    ("shown", "word"), [("woman", "adult man"), ("man", "adult woman"), ("girl", "boy"), ("boy", "girl")]
)
async def test_auto_is_the_opposite_of_what_the_picture_shows(shown: str, word: str) -> None:
    told = {phrase: float(value == shown) for phrase, value in PHOTO.presentation.items()}
    perception = FakePerception(answers={"presentation": told})
    wording = await wording_of(spec_of(target=Presentation.AUTO), PHOTO, perception.describe)
    assert perception.asked == ["describe"]
    assert word in wording.prompt
