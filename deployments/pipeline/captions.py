"""A picture's own caption: what a family's questions find in it, in the words of the family's captions.

Knows the questions (``captions.toml``); who answers them is given. Answers are kept for one request only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

# Picture file and questions (a name and its phrases) to the probability of each phrase, by question.
Describe = Callable[[bytes, Mapping[str, tuple[str, ...]]], Awaitable[Mapping[str, Mapping[str, float]]]]
_DATA = Path(__file__).with_suffix(".toml")
_SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class Description:
    """What a picture shows: ``words`` by question, "" for what is absent, and the ``caption`` they make."""

    subject: str
    words: Mapping[str, str]
    template: tuple[str, ...]

    @property
    def caption(self) -> str:
        return self.caption_with({})

    def caption_with(self, changes: Mapping[str, str]) -> str:
        """The caption with other words for some of the questions, "" to leave one out."""
        words = {_SUBJECT: self.subject, **self.words, **changes}
        said = (part.format_map(words).strip() for part in self.template)
        return ", ".join(part for part in said if part)

    def beyond(self, said: Collection[str]) -> str:
        """The parts of the caption that speak of none of the questions ``said``, nor of the subject."""
        taken = {*said, _SUBJECT}
        parts = (part.format_map(self.words) for part in self.template if not taken & _questions_of(part))
        return ", ".join(part for part in parts if part)


async def describe_picture(describe: Describe | None, image: bytes, family: str) -> Description | None:
    """The description of ``image``; None where the family has no questions or nobody answers them."""
    questions = _families().get(family)
    if describe is None or questions is None:
        return None
    subjects: Mapping[str, str] = questions["subjects"]
    subject = _likeliest((await describe(image, {_SUBJECT: tuple(subjects)}))[_SUBJECT])
    kind: Mapping[str, Any] = questions[subjects[subject]]
    asked: Mapping[str, Mapping[str, str]] = kind["questions"]
    answers = await describe(image, {name: tuple(phrases) for name, phrases in asked.items()})
    words = {name: asked[name][_likeliest(answers[name])] for name in asked}
    return Description(subject, words, tuple(kind["caption"]))


def _questions_of(part: str) -> set[str]:
    """The questions whose answers a part of a template speaks of."""
    return {name for _, name, _, _ in Formatter().parse(part) if name}


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=lambda phrase: probabilities[phrase])


@cache
def _families() -> Mapping[str, Any]:
    return tomllib.loads(_DATA.read_text("utf-8"))
