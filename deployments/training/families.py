"""The words that adapters are trained with, per model family. Knows templates; nothing of models."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_DATA = Path(__file__).with_suffix(".toml")
_ANY = "any"


def caption(family: str, trigger: str, subject: str) -> str:
    """The caption of a picture of the subject that ``trigger`` names: "a photo of sks person"."""
    return _templates(family)["caption"].format(trigger=trigger, subject=subject)


def class_prompt(family: str, subject: str) -> str:
    """What shows anybody of the subject's class: "a photo of a person"."""
    return _templates(family)["class_prompt"].format(subject=subject)


@cache
def _templates(family: str) -> Mapping[str, str]:
    known = tomllib.loads(_DATA.read_text("utf-8"))
    templates: Mapping[str, str] = known.get(family, known[_ANY])
    return templates
