"""The JSON shapes of problems and of the catalogue."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field

from core.types import ModelInfo, SamplerName


class InvalidMember(BaseModel):
    """What is wrong with one member of a request."""

    field: str | None
    message: str
    limit: Any = None


class OpenAIError(BaseModel):
    """The same error in the words of OpenAI's clients."""

    message: str
    type: str
    code: str
    param: str | None


class Problem(BaseModel):
    """An RFC 9457 problem, which OpenAI's clients understand as well."""

    type: str = Field(description="Where this kind of problem is explained.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Names this one occurrence, by its request id.")
    code: str = Field(description="Stable; branch on this.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    field: str | None = Field(None, description="The offending request member.")
    limit: Any = Field(None, description="What the member has to keep to.")
    errors: list[InvalidMember]
    error: OpenAIError


class StyleDefaults(BaseModel):
    """Settings that a style brings along; a request overrides them."""

    num_inference_steps: int | None
    guidance_scale: float | None
    sampler: SamplerName | None


class StyleEntry(BaseModel):
    """A style as one model would apply it. The last three are null where ``available`` is false."""

    id: str
    title: str
    description: str
    available: bool
    prompt: str | None = Field(description="Template; `{prompt}` stands for the prompt.")
    negative_prompt: str | None
    defaults: StyleDefaults | None


class StyleList(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[StyleEntry]


class FewStepEntry(BaseModel):
    """How a model draws with its few-step adapter, whose guidance is part of it."""

    default: bool = Field(description="Whether pictures from words are drawn so unless asked otherwise.")
    sampler: SamplerName
    num_inference_steps: int
    guidance_scale: float = Field(description="1 is what the adapter was made for, over 2 is too much.")


class ModelEntry(BaseModel):
    """What a model is and what may be asked of it. Sizes in pixels."""

    id: str
    object: Literal["model"] = "model"
    owned_by: Literal["limner"] = "limner"
    default: bool = Field(description="Whether requests that name no model get this one.")
    family: str
    description: str
    licence: str
    default_size: int
    min_size: int
    max_size: int
    size_multiple: int
    max_clip_skip: int
    prediction_type: str
    default_sampler: SamplerName
    default_num_inference_steps: int
    default_guidance_scale: float
    strengths: dict[str, float] = Field(
        description="How much is drawn anew by default, by strategy of image-to-image, and to `upscale`."
    )
    few_step: FewStepEntry | None = Field(description="Null where no few-step adapter is installed.")

    @classmethod
    def of(cls, info: ModelInfo, *, default: bool) -> ModelEntry:
        members = {name: getattr(info, name) for name in cls.model_fields if hasattr(info, name)}
        members["few_step"] = info.few_step and asdict(info.few_step)
        return cls(id=info.model_id, default=default, **members)


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class SamplerEntry(BaseModel):
    id: SamplerName
    title: str
    description: str
    stochastic: bool = Field(description="Whether it adds noise at every step.")


class SamplerList(BaseModel):
    object: Literal["list"] = "list"
    data: list[SamplerEntry]


class ProblemKind(BaseModel):
    """One kind of problem, for people who follow a problem's ``type``."""

    type: str
    code: str
    title: str
    status: int
    retryable: bool
    description: str


class Health(BaseModel):
    status: Literal["ok", "ready"]


class Index(BaseModel):
    """Where everything is."""

    name: str
    version: str
    links: dict[str, str]
