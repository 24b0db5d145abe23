"""The members that requests for pictures share, with the bounds that hold everywhere.

Each is read strictly: a number in quotes is no number. ``serve_app.resolve`` has the other bounds.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from core.training import MAX_ADAPTERS
from core.types import OutputFormat, SamplerName

MAX_MEMBERS = 100
MAX_STYLES = 8
MAX_SEED = 2**32 - 1
MAX_HIRES_SCALE = 4
MAX_ID_CHARS = 100
MAX_WEIGHT = 2
# Unicode categories Cc, without tab, line feed and carriage return, and Cs.
_UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def _fit_for_text(text: str) -> str:
    if _UNFIT.search(text):
        raise PydanticCustomError("unfit", "The text must not hold control characters or lone surrogates.")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "The text must not be blank.")
    return text


Text = Annotated[str, AfterValidator(_fit_for_text)]
Words = Annotated[Text, AfterValidator(_not_blank)]
PROMPT = "`(word)1.3` or `word++` stresses a word, `word--` weakens it."


class Members(BaseModel):
    """A request, or an object within one. Members that it does not know are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        # Reporting each of a megabyte of unknown members would hold up everybody else.
        if isinstance(value, dict) and len(value) > MAX_MEMBERS:
            raise PydanticCustomError("too_many", "Too many members.", {"max_length": MAX_MEMBERS})
        return value


class HiresMembers(Members):
    """A second pass at a higher resolution."""

    scale: float = Field(gt=1, le=MAX_HIRES_SCALE, description="How many times wider and higher.")
    strength: float = Field(gt=0, le=1, description="How much of it is drawn anew, in tiles.")


class AdapterMembers(Members):
    """One of the member's own adapters, and how strongly it acts."""

    id: Text = Field(min_length=1, max_length=MAX_ID_CHARS, description="An id from `GET /v1/adapters`.")
    weight: float = Field(
        1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, description="1 is as it was trained; 0 is not at all."
    )


def _no_id_twice(adapters: list[AdapterMembers]) -> list[AdapterMembers]:
    if len({adapter.id for adapter in adapters}) < len(adapters):
        raise PydanticCustomError("twice", "An adapter is named once.", {"limit": 1})
    return adapters


class DrawingRequest(Members):
    """What every request for pictures may say. Styles, then the model, fill in the rest."""

    prompt: Text = Field("", description=f"What to draw. {PROMPT}")
    negative_prompt: Text = Field("", description="What to keep out of the picture.")
    model: str | None = Field(None, description="An id from `GET /v1/models`; the first one if left out.")
    adapters: Annotated[list[AdapterMembers], AfterValidator(_no_id_twice)] = Field(
        [],
        max_length=MAX_ADAPTERS,
        description="The caller's own adapters to draw with; their effects add up. The prompt names a "
        "subject by its adapter's `prompt_words`.",
    )
    num_inference_steps: int | None = Field(None, ge=1, description="Denoising steps per picture.")
    guidance_scale: float | None = Field(
        None, ge=0, description="How closely to follow the prompt. 1 or less switches guidance off."
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Picture `i` is drawn from `seed + i`. Drawn at random if left out, and always reported.",
    )
    n: int = Field(1, ge=1, description="Number of pictures.")
    sampler: SamplerName | None = Field(None, strict=False, description="An id from `GET /v1/samplers`.")
    clip_skip: int = Field(0, ge=0, description="Text encoder layers left out before the final one.")
    output_format: OutputFormat | None = Field(
        None,
        strict=False,
        description="Picture file format; the one the `Accept` header prefers if left out, else PNG.",
    )
    quality: int = Field(90, ge=1, le=100, description="Of JPEG and WebP files. PNG is lossless.")
    stream: bool = Field(
        False, description="Answer with Server-Sent Events, as `Accept: text/event-stream` does too."
    )
    preview_every: int = Field(
        0, ge=0, description="Send a small preview every so many steps; needs a stream. 0 for none."
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        description="Refuse at once, or give up, when the pictures cannot be ready within so many seconds.",
    )


class StyledRequest(DrawingRequest):
    """A request whose prompt may be put into styles."""

    styles: list[str] = Field(
        [],
        max_length=MAX_STYLES,
        description="Ids from `GET /v1/styles`, applied from left to right.",
    )


class TextToImageRequest(StyledRequest):
    """What to draw, and how. Only ``prompt`` is needed: styles, then the model, fill in the rest."""

    prompt: Words = Field(description=f"What to draw. {PROMPT}")
    width: int | None = Field(None, ge=1, description="Pixels; a multiple of the model's `size_multiple`.")
    height: int | None = Field(None, ge=1, description="Pixels; a multiple of the model's `size_multiple`.")
    hires: HiresMembers | None = Field(
        None, description="A second pass: the picture enlarged, its details drawn anew."
    )
    few_step: bool | None = Field(
        None,
        description="Whether to draw with the model's few-step adapter, by its `few_step` settings in "
        "`GET /v1/models`. Left out, a model that does so by default does, unless steps, sampler, guidance, "
        "a negative prompt or `hires` are asked for.",
    )
