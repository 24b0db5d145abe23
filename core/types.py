"""The words and events that router and pipelines share. No torch, no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

# How torch.compile is asked to go about it.
CompileMode = Literal["off", "default", "max-autotune"]


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
class FewStep:
    """How a model draws in few steps, with an adapter that was distilled for it.

    ``default`` is whether it does so wherever a request from words alone leaves steps, sampler and guidance
    to it. The adapter brings its guidance along: a ``guidance_scale`` over 1 adds to that.
    """

    sampler: SamplerName
    num_inference_steps: int
    guidance_scale: float
    default: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a client may ask of a model. Sizes in pixels.

    ``strengths`` are its own defaults by strategy of image-to-image, and for ``upscale``. ``few_step`` is
    None where no few-step adapter is installed.
    """

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
    strengths: Mapping[str, float] = field(default_factory=dict)
    few_step: FewStep | None = None


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
    """One finished picture file. ``seed`` alone reproduces it. Sizes in pixels."""

    index: int
    seed: int
    image: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the seconds of a request went, as its pipeline replica saw them.

    ``engine_s`` is the part of ``denoise_s`` that was spent in the Denoiser's engine, waiting for its turn
    included; ``file_s`` the part of ``decode_s`` after the last pixels were there.
    """

    encode_s: float
    denoise_s: float
    decode_s: float
    total_s: float
    engine_s: float = 0.0
    file_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Completed:
    """Last event of a request that succeeded."""

    pictures: tuple[Picture, ...]
    timings: Timings


PipelineEvent = Accepted | Progress | Preview | Completed
