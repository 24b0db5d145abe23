"""Whom the portrait is to show and the words for it. What a picture shows is asked for and then forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.specs import AdapterUse, GenderSwapSpec, Presentation
from deployments.pipeline.captions import Describe
from deployments.pipeline.gender_swap.families import (
    SUBJECT,
    FamilyFacts,
    RoomForHair,
    TargetFacts,
    names_in,
)

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
    where the family's prompts name them; the answers live as long as this call. A person whom an adapter
    was trained on is named as in its training, but for the presentation. Raises what Perception raises.
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
    subject, others = _named(spec.adapters, words, facts.people)
    return Wording(
        prompt=_joined([*_said(words.prompt, answers | {SUBJECT: subject}), *others, spec.prompt]),
        negative_prompt=_joined([*words.negative, *facts.negative, spec.negative_prompt]),
        hair=words.hair,
    )


def _named(
    adapters: Sequence[AdapterUse], words: TargetFacts, people: frozenset[str]
) -> tuple[str, list[str]]:
    """Whom the picture shows, and the words of the adapters that are not of people."""
    triggers: list[str] = []
    others: list[str] = []
    for use in adapters:
        said = use.subject_words.split()
        own = [word for word in said if word.casefold() not in people]
        if len(own) < len(said):
            triggers += own
        elif said:
            others.append(use.subject_words)
    return words.named.format(trigger=" ".join(triggers)) if triggers else words.subject, others


def _said(parts: Sequence[str], answers: Mapping[str, str]) -> list[str]:
    """``parts`` with their answers, without those that an answer leaves nothing to say for."""
    return [part.format_map(answers) for part in parts if all(answers[name] for name in names_in(part))]


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(part.strip() for part in parts if part.strip())
