"""What perception has to know of a model family, from ``families.toml``. Knows data alone."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

_FILE = Path(__file__).with_name("families.toml")
_DEFAULT = "default"


class DrawnFaceFacts(BaseModel):
    """How drawn faces are told: regions of ``word`` of at least ``min_area`` (share of a square view), in
    views that look more like ``people`` than like ``others``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: str
    min_area: float = Field(gt=0, lt=1)
    people: tuple[str, ...] = Field(min_length=1)
    others: tuple[str, ...] = Field(min_length=1)


class DoubtFacts(BaseModel):
    """``words`` that masks are found for too easily; ``present`` and ``absent`` are asked first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...] = Field(min_length=1)
    present: tuple[str, ...] = Field(min_length=1)
    absent: tuple[str, ...] = Field(min_length=1)


class FamilyFacts(BaseModel):
    """``empty_below``: words whose highest probabilities in a picture are lower match nothing in it.

    ``neutral``: what harmless pictures of the family show. ``drawn_faces``: None where faces are those of
    photographs. ``doubts``: words of which the whole picture is asked first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    empty_below: float = Field(gt=0, lt=1)
    neutral: tuple[str, ...] = Field(min_length=1)
    drawn_faces: DrawnFaceFacts | None = None
    doubts: tuple[DoubtFacts, ...] = ()


def facts_of(family: str) -> FamilyFacts:
    """The facts of ``family``, those of every other family where it has none of its own."""
    tables = _tables()
    return tables.get(family, tables[_DEFAULT])


@cache
def _tables() -> dict[str, FamilyFacts]:
    return {
        name: FamilyFacts.model_validate(table) for name, table in tomllib.loads(_FILE.read_text()).items()
    }
