"""What the routes ask of the pipelines behind them. Knows no Ray: the application adapts its handles."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from core.types import PipelineEvent, TextToImageSpec


class TextToImagePipeline(Protocol):
    """Turns a prompt into pictures."""

    def generate(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first and ``Completed`` last.

        Failures are raised: a ``LimnerError``, or an exception that carries one as ``cause``.
        Closing the generator, or cancelling the task that waits for it, cancels the work.
        """
        ...


class Pipelines(Protocol):
    """The pipelines of every model that this service offers."""

    def text_to_image(self, model_id: str) -> TextToImagePipeline:
        """The pipeline of a model that ``build_api`` was given."""
        ...

    async def ready(self) -> bool:
        """Whether every pipeline would take a request now."""
        ...
