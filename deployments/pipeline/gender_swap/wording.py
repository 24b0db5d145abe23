"""Whom the portrait is to show and the words for it. What a picture shows is asked for and then forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from core.specs import GenderSwapSpec, Presentation
from deployments.pipeline.captions import Describe
from deployments.pipeline.gender_swap.families import FamilyFacts, RoomForHair

_PRESENTATION = "presentation"
_OPPOSITE = {
    Presentation.WOMAN: Presentation.MAN,
    Presentation.MAN: Presentation.WOMAN,
    Presentation.GIRL: Presentation.BOY,
    Presentation.BOY: Presentation.GIRL,
}


@dataclass(frozen=True, slots=True)
class Wording:
    """Prompts of one swap, and the room that its hair needs."""

    prompt: str
    negative_prompt: str
    hair: RoomForHair | None


async def wording_of(spec: GenderSwapSpec, facts: FamilyFacts, describe: Describe) -> Wording:
    """The words for ``spec``.

    Perception is asked for the presentation only where the target is ``AUTO``, and for attributes only
    where the family's prompts name them; the answers live as long as this call. Raises what it raises.
    """
    questions = {name: question.phrases for name, question in facts.questions.items()}
    if spec.target is Presentation.AUTO:
        questions[_PRESENTATION] = tuple(facts.presentation)
    told = await describe(spec.image, questions) if questions else {}
    target = spec.target
    if target is Presentation.AUTO:
        shown = told[_PRESENTATION]
        target = _OPPOSITE[facts.presentation[max(shown, key=lambda phrase: shown[phrase])]]
    answers = {name: question.answer(told[name]) for name, question in facts.questions.items()}
    words = facts.words_for(target)
    return Wording(
        prompt=_joined([*_said(words.prompt, answers), spec.prompt]),
        negative_prompt=_joined([*words.negative, *facts.negative, spec.negative_prompt]),
        hair=words.hair,
    )


def _said(parts: Sequence[str], answers: Mapping[str, str]) -> list[str]:
    """``parts`` with their answers, without those that an answer leaves nothing to say for."""
    return [
        part.format_map(answers)
        for part in parts
        if all(answers[name] for _, name, _, _ in Formatter().parse(part) if name)
    ]


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(part.strip() for part in parts if part.strip())
