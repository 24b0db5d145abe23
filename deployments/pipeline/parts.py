"""What a pipeline replica owns of its model: text encoder, VAE, and the facts of both. No ray, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from core.settings import PipelineSettings
from core.specs import GenerationSpec
from core.types import ModelInfo
from deployments.pipeline.decoder import PictureDecoder
from deployments.pipeline.encoder import PictureEncoder
from deployments.pipeline.prompts import PromptEncoder
from weights import registry


class Embeds(NamedTuple):
    """Prompt embeddings ``[tokens, width]``; no negative ones where guidance is off."""

    positive: torch.Tensor
    negative: torch.Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class PipelineParts:
    """Text encoder and VAE of one model, each with its own batches."""

    info: ModelInfo
    prompts: PromptEncoder
    encoder: PictureEncoder
    decoder: PictureDecoder

    async def embed(self, spec: GenerationSpec) -> Embeds:
        """The embeddings of the prompts of ``spec``. Raises :class:`InvalidRequest`."""
        negative = spec.negative_prompt if spec.guidance_scale > 1 else None
        return Embeds(*await self.prompts.encode_pair(spec.prompt, negative, spec.clip_skip))

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """``[channels, h, w]`` of a picture of so many pixels."""
        factor = self.decoder.factor
        return self.decoder.latent_channels, height // factor, width // factor

    def close(self) -> None:
        for part in (self.prompts, self.encoder, self.decoder):
            part.close()


def load_parts(model_id: str, settings: PipelineSettings, device: str) -> PipelineParts:
    """Load the parts of ``model_id``. Raises what the registry raises."""
    tokenizer, text_encoder = registry.load_text(model_id)
    vae = registry.load_vae(model_id)
    return PipelineParts(
        registry.info(model_id),
        PromptEncoder(tokenizer, text_encoder.to(device), cache_entries=settings.embedding_cache_entries),
        PictureEncoder(vae, device=device, max_batch=settings.max_decode_batch),
        PictureDecoder(vae, precision=settings.precision, device=device, max_batch=settings.max_decode_batch),
    )
