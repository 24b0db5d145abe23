"""What a gender swap has to know of a model family, from ``swap_prompts.toml``. Knows data alone."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.specs import Presentation

_FILE = Path(__file__).with_name("swap_prompts.toml")
_DEFAULT = "default"
# What prompts call whom the picture shows.
SUBJECT = "subject"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(_Frozen):
    """A zero-shot question: which of ``answers``, each said by ``phrase``. ``unsaid`` ones become ""."""

    phrase: str
    answers: tuple[str, ...] = Field(min_length=2)
    unsaid: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(self.phrase.format(answer) for answer in self.answers)

    def answer(self, probabilities: Mapping[str, float]) -> str:
        """The likeliest answer by the probability of its phrase, "" where it is not to be said."""
        likeliest = max(self.answers, key=lambda answer: probabilities[self.phrase.format(answer)])
        return "" if likeliest in self.unsaid else likeliest


class RoomForHair(_Frozen):
    """How far hair may grow beyond the face's box: beside it in widths of it, above and below in heights."""

    beside: float = Field(ge=0)
    above: float = Field(ge=0)
    below: float = Field(ge=0)


class TargetFacts(_Frozen):
    """The words of one target, and where it needs room for longer hair.

    ``subject`` is anybody of it, ``named`` somebody whom the words of an adapter name.
    """

    subject: str = Field(min_length=1)
    named: str = Field(pattern=r"\{trigger\}")
    prompt: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = ()
    hair: RoomForHair | None = None


class FamilyFacts(_Frozen):
    """``painted`` and ``kept`` are words for Perception: what the first find is painted, and everything
    that the second, if there are any, do not find. ``grow`` and ``feather`` are in widths of the face,
    ``tolerance`` in levels of 255: what is no more than that off the background becomes the background.
    A target that ``instead`` names is drawn as another one. ``people`` are the words for what an adapter
    of a person is trained as.
    """

    strength_exponent: float = Field(gt=0, le=1)
    painted: str = Field(min_length=1)
    kept: str = ""
    grow: float = Field(ge=0)
    feather: float = Field(ge=0)
    tolerance: int = Field(ge=0, le=127)
    negative: tuple[str, ...] = ()
    people: frozenset[str] = frozenset()
    presentation: Mapping[str, Presentation]
    instead: Mapping[Presentation, Presentation] = {}
    questions: Mapping[str, Question] = {}
    targets: Mapping[Presentation, TargetFacts]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for target in set(Presentation) - {Presentation.AUTO}:
            if self.instead.get(target, target) not in self.targets:
                raise ValueError(f"no words for {target}")
        for target, facts in self.targets.items():
            for part in facts.prompt:
                unknown = names_in(part) - {SUBJECT, *self.questions}
                if unknown:
                    raise ValueError(f"the prompt of {target} asks for {sorted(unknown)}")
        return self

    def words_for(self, target: Presentation) -> TargetFacts:
        """The words of ``target``, which is not ``AUTO``."""
        return self.targets[self.instead.get(target, target)]

    def strength(self, asked: float) -> float:
        """The share of the trajectory that the family denoises when a request asks for ``asked``."""
        return float(min(asked, 1.0) ** self.strength_exponent)


def names_in(part: str) -> set[str]:
    """What the braces in a part of a prompt name."""
    return {name for _, name, _, _ in Formatter().parse(part) if name}


def facts_of(family: str) -> FamilyFacts:
    """The facts of ``family``, those of every other family where it has none of its own."""
    tables = _tables()
    return tables.get(family, tables[_DEFAULT])


@cache
def _tables() -> dict[str, FamilyFacts]:
    tables = tomllib.loads(_FILE.read_text("utf-8"))
    return {name: FamilyFacts.model_validate(table) for name, table in tables.items()}
