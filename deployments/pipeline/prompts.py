"""Prompts to embeddings: tokenization, the CLIP text encoder, weighting, long prompts, a cache.

A plain prompt gives what diffusers' ``StableDiffusionPipeline.encode_prompt`` gives; a longer one is
encoded in chunks of the encoder's context instead of being cut. Knows nothing of pictures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from compel import Compel
from compel.embeddings_provider import EmbeddingsProvider
from compel.prompt_parser import Conjunction

from core.errors import InvalidRequest
from deployments.pipeline.batcher import Batcher
from deployments.pipeline.embedding_cache import EmbeddingCache
from deployments.pipeline.weighting import parse_weights

MAX_CHUNKS = 8
_MAX_BATCH = 16


class Prompt(NamedTuple):
    """A text and how many of the encoder's layers before the final one are left out."""

    text: str
    clip_skip: int = 0


class PromptEncoder:
    """The text encoder of one replica; requests that wait share its forward passes.

    ``cache_entries`` bounds the cache in embeddings of one context length each.
    """

    def __init__(
        self, tokenizer: Any, text_encoder: Any, *, cache_entries: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = text_encoder.to(dtype=dtype)
        self._norm = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
        self._context_tokens = int(tokenizer.model_max_length)
        self.max_clip_skip = int(text_encoder.config.num_hidden_layers) - 1
        entry_bytes = self._context_tokens * int(text_encoder.config.hidden_size) * 4
        self._cache: EmbeddingCache[Prompt] = EmbeddingCache(cache_entries * entry_bytes)
        self._batcher: Batcher[Prompt, torch.Tensor] = Batcher(self.encode_batch, _MAX_BATCH, name="prompts")

    async def encode_pair(
        self, prompt: str, negative_prompt: str | None, clip_skip: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings ``[tokens, width]`` of a prompt and its negative, float32 on the CPU, equally long.

        As in diffusers, ``clip_skip`` holds for the prompt alone. Raises :class:`InvalidRequest`.
        """
        if not 0 <= clip_skip <= self.max_clip_skip:
            raise InvalidRequest(
                f"clip_skip must be from 0 to {self.max_clip_skip}.",
                field="clip_skip",
                limit=self.max_clip_skip,
            )
        if negative_prompt is None:
            return await self.encode(Prompt(prompt, clip_skip)), None
        wanted = (Prompt(prompt, clip_skip), Prompt(negative_prompt))
        # Both failures are awaited; the prompt's own one is the one to tell.
        positive, negative = await asyncio.gather(*map(self.encode, wanted), return_exceptions=True)
        if isinstance(positive, BaseException):
            raise positive
        if isinstance(negative, InvalidRequest):
            raise InvalidRequest(negative.message, field="negative_prompt", limit=negative.limit)
        if isinstance(negative, BaseException):
            raise negative
        length = max(len(positive), len(negative))
        return await self._padded(positive, length, clip_skip), await self._padded(negative, length, 0)

    async def encode(self, prompt: Prompt) -> torch.Tensor:
        """Embeddings ``[tokens, width]`` of one prompt, from the cache where it holds them."""
        cached = self._cache.get(prompt)
        if cached is None:
            cached = await self._batcher.submit(prompt)
            self._cache.put(prompt, cached)
        return cached

    @torch.inference_mode()
    def encode_batch(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Embeddings of ``prompts`` in their order: one forward for all that are plain and short."""
        encoded: dict[Prompt, torch.Tensor] = {}
        plain: list[Prompt] = []
        for prompt in dict.fromkeys(prompts):
            weighted = parse_weights(prompt.text)
            num_tokens = len(self._tokenizer(prompt.text).input_ids)
            self._check_length(num_tokens)
            if weighted is None and num_tokens <= self._context_tokens:
                plain.append(prompt)
            else:
                encoded[prompt] = self._encode_chunks(prompt, weighted)
        if plain:
            encoded.update(zip(plain, self._encode_plain(plain), strict=True))
        return [encoded[prompt] for prompt in prompts]

    def close(self) -> None:
        self._batcher.close()

    def _encode_plain(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        tokens = self._tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length",
            max_length=self._context_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self._encoder.device)
        output = self._encoder(tokens, output_hidden_states=any(prompt.clip_skip for prompt in prompts))
        return [_finished(self._skipped(output, prompt.clip_skip)[row]) for row, prompt in enumerate(prompts)]

    def _skipped(self, output: Any, clip_skip: int) -> torch.Tensor:
        """Hidden states ``[batch, tokens, width]`` after the layers that ``clip_skip`` leaves, normalized."""
        if clip_skip == 0:
            states: torch.Tensor = output.last_hidden_state
        else:
            states = self._norm(output.hidden_states[-(clip_skip + 1)])
        return states

    def _encode_chunks(self, prompt: Prompt, weighted: Conjunction | None) -> torch.Tensor:
        encoder = _SkippingEncoder(self, prompt.clip_skip)
        try:
            if weighted is None:
                provider = EmbeddingsProvider(self._tokenizer, encoder, truncate=False)
                states = provider.get_embeddings_for_weighted_prompt_fragments([[prompt.text]], [[1.0]])
            else:
                compel = Compel(self._tokenizer, encoder, truncate_long_prompts=False)
                states, _ = compel.build_conditioning_tensor_for_conjunction(weighted)
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # compel has no errors of its own for contradictory input (two texts blended by three weights).
            raise InvalidRequest("The prompt's weights cannot be applied.", field="prompt") from error
        self._check_length(states.shape[1])
        if not torch.isfinite(states).all():
            raise InvalidRequest("The prompt's weights are out of range.", field="prompt")
        return _finished(states[0])

    async def _padded(self, embeddings: torch.Tensor, length: int, clip_skip: int) -> torch.Tensor:
        if len(embeddings) == length:
            return embeddings
        empty = await self.encode(Prompt("", clip_skip))
        return torch.cat([embeddings] + [empty] * ((length - len(embeddings)) // len(empty)))

    def _check_length(self, num_tokens: int) -> None:
        limit = MAX_CHUNKS * self._context_tokens
        if num_tokens > limit:
            raise InvalidRequest(f"The prompt is over {limit} tokens.", field="prompt", limit=limit)


class _SkippingEncoder:
    """The text encoder as compel calls it, its layers already skipped (compel's own modes fail)."""

    def __init__(self, prompts: PromptEncoder, clip_skip: int) -> None:
        self._prompts = prompts
        self._clip_skip = clip_skip
        self.device = prompts._encoder.device
        self.dtype = prompts._encoder.dtype

    def __call__(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: object
    ) -> SimpleNamespace:
        output = self._prompts._encoder(tokens, attention_mask, output_hidden_states=self._clip_skip > 0)
        return SimpleNamespace(last_hidden_state=self._prompts._skipped(output, self._clip_skip))


def _finished(states: torch.Tensor) -> torch.Tensor:
    return states.float().cpu().contiguous()
