"""What the model is told: short prompts completed to the captions that a family was trained on.

A prompt for a part ("pink hair") says nothing of the rest of the picture, which a small model needs.
Knows words alone (``words.toml``).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from core.specs import InpaintMode, InpaintSpec
from deployments.pipeline.captions import Description

_DATA = Path(__file__).with_suffix(".toml")
_WORD = re.compile(r"[^\W\d_][\w-]*")
# Whole prompts joined by these are not the end of a caption.
_JOINED = re.compile(r"\.\s*(?:blend|and)\s*\(")
# The question that an adjective of the subject answers, and the one about what goes on beyond the edges.
_COLOR, _BACKGROUND = "color", "background"


class Words(NamedTuple):
    """A prompt and its negative."""

    prompt: str
    negative_prompt: str


def words_for(spec: InpaintSpec, description: Description | None, family: str) -> Words:
    """What to say for ``spec``, given the ``description`` of its picture where there is one.

    Removal says what is left of the picture, and what goes only in the negative prompt: the words that
    found the mask, or else the prompt, which then names the object.
    """
    data = _family(family)
    if spec.mode is InpaintMode.OUTPAINT and not spec.prompt and description is not None:
        # Told of the subject, a small model would begin a second one beside it.
        beyond = description.words.get(_BACKGROUND)
        return Words(f"plain {beyond}" if beyond else description.caption, spec.negative_prompt)
    if spec.mode is not InpaintMode.REMOVE:
        covered = _answered(data.get("covers", {}), spec.mask_prompt or "")
        return Words(_completed(spec.prompt, covered, description, data), spec.negative_prompt)
    gone = spec.mask_prompt or spec.prompt
    prompt = spec.prompt if spec.mask_prompt else ""
    if not prompt and description is not None:
        left_out = dict.fromkeys(_answered(data.get("covers", {}), gone), "")
        absent = dict.fromkeys(_found(data.get("absent", {}), gone))
        prompt = _listed([description.caption_with(_known(left_out, description)), *absent])
    elif prompt:
        prompt = _completed(prompt, _answered(data.get("covers", {}), gone), description, data)
    removal = data["remove"]
    return Words(prompt or removal["prompt"], _listed([spec.negative_prompt, gone, removal["negative"]]))


def with_what_stays(prompt: str, description: Description | None, family: str) -> str:
    """``prompt`` with the facts of the picture that it does not speak of, so that they stay as they are."""
    data = _family(family)
    if description is None or _JOINED.search(prompt):
        return prompt
    if not _tokens(prompt) & set(data["subjects"]):
        return _completed(prompt, set(), description, data)
    said = _answered(data.get("says", {}), prompt)
    if _colored_subject(data).search(prompt.casefold()):
        said.add(_COLOR)
    return _listed([prompt, description.beyond(said)])


def _completed(
    prompt: str, covered: set[str], description: Description | None, data: Mapping[str, Any]
) -> str:
    """``prompt`` after the caption of the picture, less what the prompt and the mask make untrue of it."""
    if description is None or _JOINED.search(prompt) or _tokens(prompt) & set(data["subjects"]):
        return prompt
    said = _answered(data.get("says", {}), prompt)
    # "pink hair" over a mask of hair leaves its cut as it was, "a hat" leaves nothing of it.
    untrue = said if said & covered else said | covered
    caption = description.caption_with(_known(dict.fromkeys(untrue, ""), description))
    return _listed([caption, prompt])


def _colored_subject(data: Mapping[str, Any]) -> re.Pattern[str]:
    """A subject right behind its colour: "blue robot", but not "a robot on a blue background"."""
    colors, subjects = ("|".join(map(re.escape, data.get(name, ()))) for name in ("colors", "subjects"))
    return re.compile(rf"\b(?:{colors}) (?:{subjects})\b")


def _answered(questions: Mapping[str, list[str]], text: str) -> set[str]:
    """The questions that a word of ``text`` stands for."""
    return {question for names in _found(questions, text) for question in names}


def _found(table: Mapping[str, Any], text: str) -> list[Any]:
    tokens = _tokens(text)
    return [value for word, value in table.items() if word in tokens]


def _tokens(text: str) -> set[str]:
    words = _WORD.findall(text.casefold())
    # "pink-haired" is about hair; "t-shirt" is a word of its own.
    return {*words, *(part for word in words for part in word.split("-"))}


def _known(changes: Mapping[str, str], description: Description) -> dict[str, str]:
    return {name: words for name, words in changes.items() if name in description.words}


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)


@cache
def _family(family: str) -> Mapping[str, Any]:
    families: Mapping[str, Any] = tomllib.loads(_DATA.read_text("utf-8"))
    return families.get(family, families["default"])  # type: ignore[no-any-return]
