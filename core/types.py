"""The values that cross process boundaries between router and pipelines. No torch, no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SamplerName(StrEnum):
    """The samplers of the denoise engine, by the names that clients use."""

    DDIM = "ddim"
    EULER = "euler"
    EULER_A = "euler_a"
    DPMPP_2M = "dpmpp_2m"
    DPMPP_2M_KARRAS = "dpmpp_2m_karras"
    LCM = "lcm"


class Priority(StrEnum):
    """Service class: somebody waits for an interactive request, nobody for a background one."""

    INTERACTIVE = "interactive"
    BACKGROUND = "background"


class OutputFormat(StrEnum):
    """Picture file formats that Limner writes."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        return f"image/{self.value}"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a client may ask of a model. Sizes in pixels."""

    model_id: str
    family: str
    description: str
    default_size: int
    min_size: int
    max_size: int
    size_multiple: int
    max_clip_skip: int
    prediction_type: str
    default_sampler: SamplerName
    default_num_inference_steps: int
    default_guidance_scale: float
    licence: str = ""


@dataclass(frozen=True, slots=True)
class TextToImageSpec:
    """A validated text-to-image request, styles already applied.

    Picture ``i`` of ``num_images`` uses seed ``(seed + i) % 2**32``.
    ``clip_skip`` counts layers left out before the final one, 0 for none.
    ``quality`` is 1 to 100 and ignored for PNG. ``deadline_s`` counts from acceptance.
    ``preview_every`` is in steps, 0 for no previews.
    """

    request_id: str
    prompt: str
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    num_images: int
    width: int
    height: int
    sampler: SamplerName
    clip_skip: int = 0
    output_format: OutputFormat = OutputFormat.PNG
    quality: int = 90
    preview_every: int = 0
    user_id: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """First event of every accepted request. ``predicted_finish_s`` counts from now."""

    request_id: str
    predicted_finish_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """``step`` of ``num_steps``, summed over all pictures of the request."""

    step: int
    num_steps: int
    predicted_finish_s: float


@dataclass(frozen=True, slots=True)
class Preview:
    """A small PNG of picture ``index`` as it stands after ``step`` steps."""

    index: int
    step: int
    image: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """One finished picture file. ``seed`` alone reproduces it."""

    index: int
    seed: int
    image: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the seconds of a request went, as its pipeline replica saw them."""

    encode_s: float
    denoise_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Completed:
    """Last event of a request that succeeded."""

    pictures: tuple[Picture, ...]
    timings: Timings


PipelineEvent = Accepted | Progress | Preview | Completed
