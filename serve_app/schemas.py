"""The JSON shapes of the API, with the bounds that hold everywhere; ``serve_app.resolve`` has the others."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from core.types import ModelInfo, OutputFormat, SamplerName

MAX_MEMBERS = 100
MAX_STYLES = 8
MAX_SEED = 2**32 - 1
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


class TextToImageRequest(BaseModel):
    """What to draw, and how. Only ``prompt`` is needed: styles, then the model, fill in the rest."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    prompt: Annotated[Text, AfterValidator(_not_blank)] = Field(
        description="What to draw. `(word)1.3` or `word++` stresses a word, `word--` weakens it."
    )
    negative_prompt: Text = Field("", description="What to keep out of the picture.")
    styles: list[str] = Field(
        [],
        max_length=MAX_STYLES,
        description="Ids from `GET /v1/styles`, applied from left to right.",
    )
    model: str | None = Field(None, description="An id from `GET /v1/models`; the first one if left out.")
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
    width: int | None = Field(None, ge=1, description="Pixels; a multiple of the model's `size_multiple`.")
    height: int | None = Field(None, ge=1, description="Pixels; a multiple of the model's `size_multiple`.")
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

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        # Reporting each of a megabyte of unknown members would hold up everybody else.
        if isinstance(value, dict) and len(value) > MAX_MEMBERS:
            raise PydanticCustomError("too_many", "Too many members.", {"max_length": MAX_MEMBERS})
        return value


class GeneratedImage(BaseModel):
    """One finished picture. ``seed`` alone, with ``n`` 1, draws it again."""

    index: int
    seed: int
    media_type: str
    b64_json: str = Field(description="The picture file in base64.")


class StageTimings(BaseModel):
    """Seconds that the request spent where."""

    encode_s: float
    denoise_s: float
    decode_s: float
    total_s: float


class Parameters(BaseModel):
    """The request with every default filled in. Sent as a request, it draws the same pictures."""

    model: str
    prompt: str
    negative_prompt: str
    styles: list[str]
    num_inference_steps: int
    guidance_scale: float
    seed: int
    n: int
    width: int
    height: int
    sampler: SamplerName
    clip_skip: int
    output_format: OutputFormat
    quality: int


class TextToImageResponse(BaseModel):
    """The pictures, and everything needed to draw them again."""

    id: str
    created: int = Field(description="Unix time in seconds.")
    model: str
    prompt: str = Field(description="As the model saw it, with styles applied.")
    negative_prompt: str = Field(description="As the model saw it, with styles applied.")
    images: list[GeneratedImage]
    parameters: Parameters
    timings: StageTimings


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

    @classmethod
    def of(cls, info: ModelInfo, *, default: bool) -> ModelEntry:
        members = {name: getattr(info, name) for name in cls.model_fields if hasattr(info, name)}
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
