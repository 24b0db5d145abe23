from __future__ import annotations

import pytest

from core.specs import AdapterUse, Presentation
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


def use(adapter_id: str, subject_words: str) -> AdapterUse:
    return AdapterUse(adapter_id=adapter_id, weight=1.0, sha256="", subject_words=subject_words)


@pytest.mark.parametrize(
    ("target", "said"),
    [(Presentation.WOMAN, "cartoon portrait of sks woman,"), (Presentation.GIRL, "portrait of sks woman,")],
)
async def test_a_member_is_named_as_in_training_but_for_the_presentation(
    target: Presentation, said: str
) -> None:
    spec = spec_of(adapters=(use("a", "sks man"),), target=target)
    wording = await wording_of(spec, MINI, FakePerception(answers=answers(MINI)).describe)
    assert said in wording.prompt
    assert " man" not in wording.prompt
    assert "a woman" not in wording.prompt
    assert wording.negative_prompt == "portrait of a man, short hair, beard"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sks person", "realistic portrait of sks man"),
        ("zwx Young Woman", "realistic portrait of zwx Young man"),
        ("", "realistic portrait of an adult man"),
        ("man", "realistic portrait of an adult man"),
        ("{name} person", "realistic portrait of {name} man"),
    ],
)
async def test_the_trigger_of_a_photographed_person_meets_the_target(words: str, said: str) -> None:
    spec = spec_of(adapters=(use("a", words),), target=Presentation.MAN)
    wording = await wording_of(spec, PHOTO, FakePerception().describe)
    assert said in wording.prompt.split(", ")


async def test_words_of_other_adapters_follow_and_triggers_join() -> None:
    adapters = (use("a", "sks woman"), use("b", "zwx watercolour"), use("c", "ohw person"))
    spec = spec_of(adapters=adapters, prompt="a red hat", target=Presentation.MAN)
    wording = await wording_of(spec, PHOTO, FakePerception().describe)
    assert "portrait of sks ohw man" in wording.prompt
    assert wording.prompt.endswith(", zwx watercolour, a red hat")
