"""A model's pipelines in this process, without Ray: the same parts as the replicas', one engine thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

from core.settings import PerceptionSettings, PipelineSettings, SafetySettings
from core.specs import ImageToImageSpec, InpaintSpec
from core.types import PipelineEvent
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.request import DenoiseEvent, DenoiseRequest
from deployments.engine.samplers import NoiseSchedule
from deployments.engine.thread import EngineThread
from deployments.engine.unet import fast_unet
from deployments.pipeline.adapter_cache import AdapterCache, BlobsAtNeed, Reads
from deployments.pipeline.adapter_streaming import stream_with_adapters
from deployments.pipeline.gender_swap.pipeline import GenderSwapPipeline
from deployments.pipeline.image_to_image import ImageToImagePipeline
from deployments.pipeline.inpainting.conditioning import conditioning_for
from deployments.pipeline.inpainting.pipeline import InpaintPipeline
from deployments.pipeline.inpainting.plan import plan_of
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import load_parts
from deployments.pipeline.perception.loading import load_parts as load_perception_parts
from deployments.pipeline.perception.perceiver import Perceiver
from deployments.pipeline.text_to_image import TextToImagePipeline
from weights import registry
from weights.adapters import text_encoder_factors, unet_factors

_ADAPTER_SLOTS = 32
_ADAPTER_BYTES = 500_000_000


class InProcess:
    """The pipelines of one model; a context that closes them. Adapters come from ``blobs``."""

    def __init__(
        self, model_id: str, num_threads: int, max_rows: int = 16, blobs: Reads | None = None
    ) -> None:
        unet, dtype = fast_unet(registry.load_unet(model_id), "auto", "cpu", num_threads)
        self._engine = Engine(
            unet,
            NoiseSchedule.from_config(registry.scheduler_config(model_id)),
            dtype=dtype,
            device="cpu",
            max_rows=max_rows,
            max_queued_requests=1_000,
            cost=CostModel(),
            adapter_slots=_ADAPTER_SLOTS,
            few_step=registry.load_few_step(model_id),
        )
        self._thread = EngineThread(self._engine)
        blobs = blobs or BlobsAtNeed("memory://none")
        self._adapters = AdapterCache(blobs, _ADAPTER_BYTES, unet_factors)
        self._text_adapters = AdapterCache(blobs, _ADAPTER_BYTES, text_encoder_factors)
        settings = PipelineSettings(precision="float32")
        self._parts = load_parts(model_id, settings, "cpu", self._text_adapters)
        painter = Painter(self._denoise)
        conditioning = conditioning_for(self._parts, int(unet.config.in_channels))  # type: ignore[union-attr,arg-type]
        self.info = self._parts.info
        self.perceiver = Perceiver(
            load_perception_parts(model_id, PerceptionSettings(), SafetySettings(), "cpu")
        )
        self.text_to_image = TextToImagePipeline(self._parts, painter)
        self._inpaint = InpaintPipeline(
            self._parts,
            painter,
            lambda spec, shown, scale: plan_of(
                spec, shown, conditioning, family=self.info.family, scale=scale
            ),
            find_mask=self.perceiver.mask,
            describe=self.perceiver.describe,
        )
        self._image_to_image = ImageToImagePipeline(
            self._parts, painter, describe=self.perceiver.describe, structure=False
        )
        self.gender_swap = GenderSwapPipeline(self.info, self.perceiver, self.inpaint, self.image_to_image)
        self.inpainted: dict[str, InpaintSpec] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.stop()
        self._adapters.close()
        self._parts.close()
        self.perceiver.close()

    async def inpaint(self, spec: InpaintSpec) -> AsyncGenerator[PipelineEvent, None]:
        """The inpainting pipeline; ``inpainted`` keeps what it was asked for, by request."""
        self.inpainted[spec.request_id] = spec
        async with aclosing(self._inpaint.generate(spec)) as events:
            async for event in events:
                yield event

    async def image_to_image(self, spec: ImageToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        async with aclosing(self._image_to_image.generate(spec)) as events:
            async for event in events:
                yield event

    async def _denoise(self, request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        async with aclosing(stream_with_adapters(self._engine, self._adapters, request)) as events:
            async for event in events:
                yield event
