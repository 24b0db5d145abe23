"""What this installation offers to every route: models, styles, limits, rules. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InvalidRequest
from core.settings import RequestLimits
from core.types import ModelInfo
from serve_app.prompt_rules import PromptRules
from serve_app.styles import Style, StyleRecipe


@dataclass(frozen=True, slots=True)
class Offer:
    """The first of ``models`` is the default one. Without ``rules`` every prompt is allowed."""

    models: Sequence[ModelInfo]
    styles: Sequence[Style]
    limits: RequestLimits
    rules: PromptRules | None = None


def find_model(model_id: str | None, models: Sequence[ModelInfo]) -> ModelInfo:
    """The model with that id; the first one for None.

    Raises:
        InvalidRequest: if there is none.
    """
    if model_id is None:
        return models[0]
    for model in models:
        if model.model_id == model_id:
            return model
    known = [model.model_id for model in models]
    raise InvalidRequest(f"Unknown model. One of: {', '.join(known)}.", field="model", limit=known)


def find_recipes(style_ids: Sequence[str], model: ModelInfo, styles: Sequence[Style]) -> list[StyleRecipe]:
    """How ``model`` draws each of the styles.

    Raises:
        InvalidRequest: for the first one that does not exist or that the model cannot draw.
    """
    known = {style.id: style for style in styles}
    found = []
    for place, style_id in enumerate(style_ids):
        recipe = known[style_id].families.get(model.family) if style_id in known else None
        if recipe is None:
            able = [style.id for style in styles if model.family in style.families]
            why = (
                f"The model {model.model_id} cannot draw this style" if style_id in known else "Unknown style"
            )
            raise InvalidRequest(f"{why}. Any of: {', '.join(able)}.", field=f"styles.{place}", limit=able)
        found.append(recipe)
    return found
