"""The JSON shapes of answers. What they report as ``parameters`` is a request for the same pictures.

The pictures that a request brought along are left out of its ``parameters``: send them again beside these.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from core.specs import InpaintMode, Presentation, Strategy, SwapScope, Task
from core.types import OutputFormat, SamplerName


class GeneratedImage(BaseModel):
    """One finished picture. ``seed`` alone, with ``n`` 1, draws it again."""

    index: int
    seed: int
    media_type: str
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    b64_json: str = Field(description="The picture file in base64.")


class StageTimings(BaseModel):
    """Seconds that the request spent where."""

    encode_s: float
    denoise_s: float
    decode_s: float
    total_s: float


class HiresParameters(BaseModel):
    scale: float
    strength: float


class BoxParameters(BaseModel):
    left: int
    top: int
    width: int
    height: int


class MarginParameters(BaseModel):
    left: int
    top: int
    right: int
    bottom: int


class AdapterParameters(BaseModel):
    id: str
    weight: float


class DrawingParameters(BaseModel):
    """The request with every default filled in, without its pictures."""

    model: str
    prompt: str
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    n: int
    sampler: SamplerName
    clip_skip: int
    output_format: OutputFormat
    quality: int
    adapters: list[AdapterParameters] = Field([], exclude_if=lambda adapters: not adapters)


class StyledParameters(DrawingParameters):
    styles: list[str]


class Parameters(StyledParameters):
    """The request with every default filled in. Sent as a request, it draws the same pictures."""

    width: int
    height: int
    hires: HiresParameters | None = Field(None, exclude_if=lambda hires: hires is None)
    few_step: bool | None = Field(None, exclude_if=lambda few_step: few_step is None)


class ImageToImageParameters(StyledParameters):
    """The request with every default filled in. Sent with its ``image``, it draws the same pictures."""

    strategy: Strategy
    strength: float
    width: int
    height: int
    hires: HiresParameters | None


class InpaintParameters(StyledParameters):
    """The request with every default filled in. Sent with ``image`` and ``mask``, it draws the same."""

    mode: InpaintMode
    mask_prompt: str | None
    box: BoxParameters | None
    margins: MarginParameters | None
    mask_grow: int | None = Field(description="Null where it is left to the mode and the model.")
    mask_feather: int | None = Field(description="Null where it is left to the mode and the model.")
    strength: float | None = Field(description="Null where it is left to the mode and the model.")
    only_masked: bool
    only_masked_padding: int
    task: Task | None
    fitting_degree: float | None


class GenderSwapParameters(DrawingParameters):
    """The request with every default filled in. Sent with its ``image``, it draws the same pictures."""

    target: Presentation
    scope: SwapScope
    strength: float
    hires: HiresParameters | None


class UpscaleParameters(StyledParameters):
    """The request with every default filled in. Sent with its ``image``, it draws the same pictures."""

    scale: int
    strength: float


class DrawingResponse(BaseModel):
    """The pictures, and everything needed to draw them again."""

    id: str
    created: int = Field(description="Unix time in seconds.")
    model: str
    prompt: str = Field(description="With styles applied.")
    negative_prompt: str = Field(description="With styles applied.")
    images: list[GeneratedImage]
    parameters: DrawingParameters
    timings: StageTimings


class TextToImageResponse(DrawingResponse):
    """The pictures, and everything needed to draw them again."""

    parameters: Parameters


class ImageToImageResponse(DrawingResponse):
    """The pictures, and everything but the request's own that is needed to draw them again."""

    parameters: ImageToImageParameters


class InpaintResponse(DrawingResponse):
    """The pictures, and everything but the request's own that is needed to draw them again."""

    parameters: InpaintParameters


class GenderSwapResponse(DrawingResponse):
    """The pictures, and everything but the request's own that is needed to draw them again."""

    parameters: GenderSwapParameters


class UpscaleResponse(DrawingResponse):
    """The pictures, and everything but the request's own that is needed to draw them again."""

    parameters: UpscaleParameters


class MaskResponse(BaseModel):
    """Where the words are in the picture."""

    id: str
    coverage: float = Field(description="The share of the picture that the mask covers, from 0 to 1.")
    width: int = Field(description="Pixels, as the upright picture has.")
    height: int = Field(description="Pixels, as the upright picture has.")
    empty: bool = Field(description="Whether the words match nothing in the picture.")
    b64_json: str = Field(description="A greyscale PNG in base64, white where the words are.")
