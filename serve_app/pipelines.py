"""What the routes ask of the pipelines behind them. Knows no Ray: the application adapts its handles."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

from core.specs import (
    FoundMask,
    GenderSwapSpec,
    GenerationSpec,
    ImageToImageSpec,
    InpaintSpec,
    MaskSpec,
    TextToImageSpec,
    UpscaleSpec,
)
from core.types import PipelineEvent

S = TypeVar("S", bound=GenerationSpec, contravariant=True)


class GenerationPipeline(Protocol[S]):
    """Turns a spec into pictures."""

    def generate(self, spec: S) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first and ``Completed`` last.

        Failures are raised: a ``LimnerError``, or an exception that carries one as ``cause``.
        Closing the generator, or cancelling the task that waits for it, cancels the work.
        """
        ...


TextToImagePipeline = GenerationPipeline[TextToImageSpec]
ImageToImagePipeline = GenerationPipeline[ImageToImageSpec]
InpaintPipeline = GenerationPipeline[InpaintSpec]
GenderSwapPipeline = GenerationPipeline[GenderSwapSpec]
UpscalePipeline = GenerationPipeline[UpscaleSpec]


class Perception(Protocol):
    """Finds in a picture what words name."""

    async def mask(self, spec: MaskSpec) -> FoundMask:
        """Where the words are; a mask without coverage if they are nowhere. Failures as of pipelines."""
        ...


class Pipelines(Protocol):
    """The pipelines of every model that this service offers, by the model's id."""

    def text_to_image(self, model_id: str) -> TextToImagePipeline: ...

    def image_to_image(self, model_id: str) -> ImageToImagePipeline: ...

    def inpaint(self, model_id: str) -> InpaintPipeline: ...

    def gender_swap(self, model_id: str) -> GenderSwapPipeline: ...

    def upscale(self, model_id: str) -> UpscalePipeline: ...

    def perception(self, model_id: str) -> Perception: ...

    async def ready(self) -> bool:
        """Whether every pipeline would take a request now."""
        ...
