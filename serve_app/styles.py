"""Styles: words and settings put around a prompt, as ``styles.toml`` has them. Knows no HTTP, no models."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from core.types import SamplerName

PLACEHOLDER = "{prompt}"
STYLES_FILE = Path(__file__).with_name("styles.toml")


def _holds_prompt_once(template: str) -> str:
    if template.count(PLACEHOLDER) != 1:
        raise ValueError(f"a template holds {PLACEHOLDER} exactly once")
    return template


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StyleRecipe(_Frozen):
    """How one model family draws a style. Settings left at None are the model's own."""

    prompt: Annotated[str, AfterValidator(_holds_prompt_once)]
    negative_prompt: str = ""
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0)
    sampler: SamplerName | None = None


class Style(_Frozen):
    """A style and the families that can draw it."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    families: Mapping[str, StyleRecipe] = Field(min_length=1)


class _StylesFile(_Frozen):
    style: tuple[Style, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> _StylesFile:
        ids = [style.id for style in self.style]
        if len(set(ids)) != len(ids):
            raise ValueError("two styles share an id")
        return self


@dataclass(frozen=True, slots=True)
class StyledPrompt:
    """What the model gets, and the settings that the styles ask for."""

    prompt: str
    negative_prompt: str
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: SamplerName | None = None


def load_styles(path: Path = STYLES_FILE) -> tuple[Style, ...]:
    """The styles of a file, in its order.

    Raises:
        pydantic.ValidationError: if the file is not as described here.
    """
    return _StylesFile.model_validate(tomllib.loads(path.read_text("utf-8"))).style


def apply(recipes: Sequence[StyleRecipe], prompt: str, negative_prompt: str = "") -> StyledPrompt:
    """Put ``recipes`` around ``prompt``, the first innermost; of settings brought twice the last wins."""
    negatives = [negative_prompt] if negative_prompt.strip() else []
    steps, guidance, sampler = None, None, None
    for recipe in recipes:
        before, after = recipe.prompt.split(PLACEHOLDER)
        prompt = before + prompt + after
        if recipe.negative_prompt and recipe.negative_prompt not in negatives:
            negatives.append(recipe.negative_prompt)
        steps = steps if recipe.num_inference_steps is None else recipe.num_inference_steps
        guidance = guidance if recipe.guidance_scale is None else recipe.guidance_scale
        sampler = sampler if recipe.sampler is None else recipe.sampler
    return StyledPrompt(prompt, ", ".join(negatives), steps, guidance, sampler)
