"""What a pipeline replica owns of its model: text encoder, VAE, and the facts of both. No ray, no HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from core.errors import MissingPart
from core.settings import PipelineSettings
from core.specs import GenerationSpec
from core.types import ModelInfo
from deployments.pipeline.adapter_cache import AdapterCache
from deployments.pipeline.decoder import PictureDecoder
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.encoder import PictureEncoder
from deployments.pipeline.prompts import Prompts
from deployments.pipeline.text import NOT_ADAPTED, Adaptation
from deployments.pipeline.two_encoders import load_prompts
from weights import registry

# diffusers' configs say so of every autoencoder; it is true of this family's.
_UPCAST_FAMILY = "sdxl"


@dataclass(frozen=True, slots=True, eq=False)
class PipelineParts:
    """Text encoders and VAE of one model, each with its own batches.

    ``adapters`` has the text encoder's factors of members' adapters; without it there are none.
    """

    info: ModelInfo
    prompts: Prompts
    encoder: PictureEncoder
    decoder: PictureDecoder
    adapters: AdapterCache | None = None

    async def embed(self, spec: GenerationSpec) -> Embeds:
        """The embeddings of the prompts of ``spec``, its adapters acting in the text encoder.

        Raises :class:`InvalidRequest`, and what :meth:`adapting` raises.
        """
        return await self.embed_words(
            spec, spec.prompt, spec.negative_prompt if spec.guidance_scale > 1 else None
        )

    async def embed_words(self, spec: GenerationSpec, prompt: str, negative_prompt: str | None) -> Embeds:
        """As :meth:`embed`, with other words than those of ``spec``."""
        async with self.adapting(spec) as adapted:
            return await self.prompts.embeds(prompt, negative_prompt, spec.clip_skip, adapted)

    @asynccontextmanager
    async def adapting(self, spec: GenerationSpec) -> AsyncGenerator[Adaptation, None]:
        """What the adapters of ``spec`` do in the text encoder, in memory until the context ends.

        Raises what :meth:`AdapterCache.holding` raises, and :class:`MissingPart` without a cache.
        """
        uses = [use for use in spec.adapters if use.has_text_encoder and use.weight]
        if not uses:
            yield NOT_ADAPTED
            return
        if self.adapters is None:
            raise MissingPart("This service has no store of adapters.", field="adapters")
        async with self.adapters.holding(uses) as factors:
            yield Adaptation(tuple(sorted((use.adapter_id, use.weight) for use in uses)), factors)

    def forget(self, adapter_id: str) -> None:
        """Drop the adapter and all that came of it. Requests that hold it finish with it."""
        if self.adapters is not None:
            self.adapters.forget(adapter_id)
        self.prompts.forget(adapter_id)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """``[channels, h, w]`` of a picture of so many pixels."""
        factor = self.decoder.factor
        return self.decoder.latent_channels, height // factor, width // factor

    def close(self) -> None:
        for part in (self.prompts, self.encoder, self.decoder):
            part.close()
        if self.adapters is not None:
            self.adapters.close()


def load_parts(
    model_id: str, settings: PipelineSettings, device: str, adapters: AdapterCache | None = None
) -> PipelineParts:
    """Load the parts of ``model_id``. Raises what the registry raises."""
    vae = registry.load_vae(model_id)
    return PipelineParts(
        registry.info(model_id),
        load_prompts(model_id, settings, device),
        PictureEncoder(vae, device=device, max_batch=settings.max_decode_batch),
        PictureDecoder(
            vae,
            precision=settings.precision,
            device=device,
            max_batch=settings.max_decode_batch,
            upcast=registry.info(model_id).family == _UPCAST_FAMILY and bool(vae.config.force_upcast),
        ),
        adapters,
    )
