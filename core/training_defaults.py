"""How adapters are trained unless a member says otherwise. The numbers are data, per model family."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import MissingPart
from core.training import TrainingOptions

# Families whose adapters are read and served, while nothing here trains them.
_ONLY_IMPORTED = ("sdxl",)
_DATA = Path(__file__).with_suffix(".toml")
_ANY = "any"


def defaults_for(family: str) -> TrainingOptions:
    """The options for models of ``family``; those of any other family where it has none of its own."""
    known = _families()
    return TrainingOptions(**{**known[_ANY], **known.get(family, {})})


def check_trainable(family: str) -> None:
    """Raise :class:`MissingPart` for a family that adapters cannot be trained for."""
    if family in _ONLY_IMPORTED:
        raise MissingPart(
            f"Adapters for models of the family {family} are not trained here; train one elsewhere and "
            "import its file.",
            field="model",
        )


@cache
def _families() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads(_DATA.read_text("utf-8"))
