"""What the router asks of the pipelines: requests that are validated and complete. No torch, no HTTP.

Pictures travel as the files that clients sent (PNG, JPEG, WebP …); ``core.uploads`` opens them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from core.types import OutputFormat, Priority, SamplerName


class Strategy(StrEnum):
    """What image-to-image keeps of the picture it is given."""

    RESTYLE = "restyle"
    VARIATION = "variation"
    PRESERVE = "preserve"
    STRUCTURE = "structure"


class InpaintMode(StrEnum):
    """What inpainting does inside the mask."""

    REPLACE = "replace"
    REMOVE = "remove"
    ADD = "add"
    OUTPAINT = "outpaint"


class Task(StrEnum):
    """PowerPaint's task presets (Zhuang et al. 2024)."""

    TEXT_GUIDED = "text_guided"
    OBJECT_REMOVAL = "object_removal"
    SHAPE_GUIDED = "shape_guided"
    OUTPAINTING = "outpainting"


class Presentation(StrEnum):
    """What a gender swap aims at; ``AUTO`` is the opposite of what the portrait shows."""

    WOMAN = "woman"
    MAN = "man"
    GIRL = "girl"
    BOY = "boy"
    AUTO = "auto"


class SwapScope(StrEnum):
    """``PORTRAIT`` repaints hair, face and clothes alone, ``WHOLE`` the whole picture."""

    PORTRAIT = "portrait"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hires:
    """A second pass: sides times ``scale`` by Lanczos, then image-to-image at ``strength``, in tiles."""

    scale: float
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterUse:
    """One of the caller's adapters in a request: 1 for ``weight`` is as it was trained.

    The Router has made sure that it is the caller's and of the request's model. ``sha256`` is that of
    its file; ``subject_words`` ("sks man") are what pictures of its subject are asked for with.
    """

    adapter_id: str
    weight: float
    sha256: str
    subject_words: str = ""
    has_text_encoder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """What every request for pictures says, styles already applied.

    Picture ``i`` of ``num_images`` uses seed ``(seed + i) % 2**32``.
    ``clip_skip`` counts layers left out before the final one, 0 for none.
    With ``few_step`` the model's few-step adapter acts beside ``adapters``.
    ``quality`` is 1 to 100 and ignored for PNG. ``deadline_s`` is for the finished pictures.
    ``preview_every`` is in steps, 0 for no previews. Without ``progress`` nothing is told of the steps: each
    costs every process on its way a message. The effects of ``adapters`` add up.
    ``parameters`` are added to the picture file's text. ``traceparent`` is set for requests that are traced.
    """

    request_id: str
    prompt: str
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    num_images: int
    sampler: SamplerName
    clip_skip: int = 0
    output_format: OutputFormat = OutputFormat.PNG
    quality: int = 90
    preview_every: int = 0
    progress: bool = True
    user_id: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    hires: Hires | None = None
    adapters: tuple[AdapterUse, ...] = ()
    few_step: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToImageSpec(GenerationSpec):
    """Pictures from words alone, ``width`` × ``height`` pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageToImageSpec(GenerationSpec):
    """Pictures from a picture; the result fits ``max_width`` × ``max_height`` and keeps its aspect ratio.

    ``strength`` in (0, 1] is the share of the trajectory that is denoised anew.
    """

    image: bytes
    strength: float
    strategy: Strategy
    max_width: int
    max_height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleSpec(GenerationSpec):
    """The picture with its sides times ``scale``, details drawn at ``strength``."""

    image: bytes
    scale: int
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in pixels of the upright picture."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Pixels to add on each side of a picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InpaintSpec(GenerationSpec):
    """A picture painted anew inside a mask; every pixel outside stays as it was, bit for bit.

    Exactly one of ``mask`` (a picture file of the same size, white or transparent = paint),
    ``mask_prompt`` (words, found by Perception) and ``box`` is given, none for outpainting, which needs
    ``margins``. ``mask_grow`` and ``mask_feather`` are in pixels of the picture, as is
    ``only_masked_padding``, the surroundings that are shown to the model with ``only_masked``.
    None for these or ``strength`` leaves them to the mode and the model's family.
    ``fitting_degree`` in [0, 1] is for the shape-guided task: 1 follows the mask's outline.
    """

    image: bytes
    mode: InpaintMode
    mask: bytes | None = None
    mask_prompt: str | None = None
    box: Box | None = None
    margins: Margins | None = None
    mask_grow: int | None = None
    mask_feather: int | None = None
    strength: float | None = None
    only_masked: bool = False
    only_masked_padding: int = 32
    task: Task | None = None
    fitting_degree: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenderSwapSpec(GenerationSpec):
    """A portrait as ``target``. ``prompt`` and ``negative_prompt`` are words added to the swap's own."""

    image: bytes
    target: Presentation
    scope: SwapScope
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSpec:
    """Where in the picture are ``words``?"""

    request_id: str
    image: bytes
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMask:
    """A soft mask as a greyscale PNG of the upright picture's size; white is where the words are.

    ``coverage`` is the share of the picture that the mask covers at half its height: 0 for words that
    match nothing.
    """

    mask: bytes
    coverage: float
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a picture may be shown, and which concepts speak against it."""

    blocked: bool
    concepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A face of a person, and how sure that is, from 0 to 1."""

    box: Box
    score: float
