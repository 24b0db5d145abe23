"""Prompts to embeddings, as requests ask for them: one text encoder, its batches, a cache.

Knows asyncio and what a request says; how text is encoded is for ``text``. Knows nothing of pictures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from core.errors import InvalidRequest
from core.training import MAX_ADAPTERS
from deployments.engine.lora import LoraFactors
from deployments.pipeline.batcher import Batcher
from deployments.pipeline.embedding_cache import EmbeddingCache
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.text import NOT_ADAPTED, Adaptation, Encoded, Prompt, Reading, TextReader

_MAX_BATCH = 16
# Adapters that act in one forward pass. A slot of rank 64 takes 19 MB in the encoder of Stable Diffusion 1.x
# when an adapter is on its attention, in float32.
_NUM_SLOTS = 8
_LAST_LAYER = Reading()


class Prompts(Protocol):
    """What a pipeline asks of the text encoders of its family, one or several."""

    async def embeds(
        self,
        prompt: str,
        negative_prompt: str | None,
        clip_skip: int = 0,
        adapted: Adaptation = NOT_ADAPTED,
    ) -> Embeds:
        """What the UNet reads of a prompt and its negative; no negative without guidance.

        As in diffusers, ``clip_skip`` holds for the prompt alone and adapters act on both. Raises
        :class:`InvalidRequest`.
        """
        ...

    def forget(self, adapter_id: str) -> None:
        """Drop the adapter and every embedding that it acted on; a request under way finishes with it."""
        ...

    def close(self) -> None: ...


class _Waiting(NamedTuple):
    """A prompt on its way into a batch, and the factors of its adapters by their ids."""

    prompt: Prompt
    factors: Mapping[str, LoraFactors]


class PromptEncoder:
    """The text encoder of one replica; requests that wait share its forward passes.

    ``cache_entries`` bounds the cache in embeddings of one context length each. ``num_slots`` adapters act
    in one forward pass, at least as many as a request may have.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        *,
        cache_entries: int,
        dtype: torch.dtype = torch.float32,
        reading: Reading = _LAST_LAYER,
        num_slots: int = _NUM_SLOTS,
    ) -> None:
        assert num_slots >= MAX_ADAPTERS, "one prompt always fits"
        self._reader = TextReader(tokenizer, text_encoder.to(dtype=dtype), reading, num_slots)
        self.max_clip_skip = self._reader.max_clip_skip
        entry_bytes = self._reader.context_tokens * int(text_encoder.config.hidden_size) * 4
        self._cache: EmbeddingCache[Prompt, Encoded] = EmbeddingCache(cache_entries * entry_bytes)
        self._batcher: Batcher[_Waiting, Encoded] = Batcher(self._run, _MAX_BATCH, name="prompts")
        self._num_forgotten = 0

    async def embeds(
        self,
        prompt: str,
        negative_prompt: str | None,
        clip_skip: int = 0,
        adapted: Adaptation = NOT_ADAPTED,
    ) -> Embeds:
        """See :meth:`Prompts.embeds`."""
        return Embeds(*await self.encode_pair(prompt, negative_prompt, clip_skip, adapted))

    async def encode_pair(
        self,
        prompt: str,
        negative_prompt: str | None,
        clip_skip: int = 0,
        adapted: Adaptation = NOT_ADAPTED,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings ``[tokens, width]`` of a prompt and its negative, as :meth:`encode_both` has them."""
        positive, negative = await self.encode_both(prompt, negative_prompt, clip_skip, adapted)
        return positive.states, None if negative is None else negative.states

    async def encode_both(
        self,
        prompt: str,
        negative_prompt: str | None,
        clip_skip: int = 0,
        adapted: Adaptation = NOT_ADAPTED,
    ) -> tuple[Encoded, Encoded | None]:
        """A prompt and its negative, float32 on the CPU, equally long.

        As in diffusers, ``clip_skip`` holds for the prompt alone and adapters act on both. Raises
        :class:`InvalidRequest`.
        """
        if not 0 <= clip_skip <= self.max_clip_skip:
            raise InvalidRequest(
                f"clip_skip must be from 0 to {self.max_clip_skip}.",
                field="clip_skip",
                limit=self.max_clip_skip,
            )
        factors = adapted.factors
        told = Prompt(prompt, clip_skip, adapted.stack)
        if negative_prompt is None:
            return await self._encoded(told, factors), None
        unwanted = Prompt(negative_prompt, adapters=adapted.stack)
        # Both failures are awaited; the prompt's own one is the one to tell.
        positive, negative = await asyncio.gather(
            self._encoded(told, factors), self._encoded(unwanted, factors), return_exceptions=True
        )
        if isinstance(positive, BaseException):
            raise positive
        if isinstance(negative, InvalidRequest):
            raise InvalidRequest(negative.message, field="negative_prompt", limit=negative.limit)
        if isinstance(negative, BaseException):
            raise negative
        length = max(len(positive.states), len(negative.states))
        return (
            await self._padded(positive, length, told, factors),
            await self._padded(negative, length, unwanted, factors),
        )

    async def encode(
        self, prompt: Prompt, factors: Mapping[str, LoraFactors] = NOT_ADAPTED.factors
    ) -> torch.Tensor:
        """Embeddings ``[tokens, width]`` of one prompt, from the cache where it holds them.

        Raises :class:`InvalidRequest`, for an adapter that does not fit the encoder with field "adapters".
        """
        return (await self._encoded(prompt, factors)).states

    def forget(self, adapter_id: str) -> None:
        """See :meth:`Prompts.forget`."""
        self._num_forgotten += 1
        self._cache.drop(lambda prompt: any(name == adapter_id for name, _ in prompt.adapters))
        self._reader.slots.forget(adapter_id)

    def encode_batch(
        self, prompts: Sequence[Prompt], factors: Mapping[str, LoraFactors] = NOT_ADAPTED.factors
    ) -> list[torch.Tensor]:
        """Embeddings of ``prompts`` in their order, as :meth:`TextReader.read` makes them."""
        return [encoded.states for encoded in self._reader.read(prompts, factors)]

    def close(self) -> None:
        self._batcher.close()

    async def _encoded(self, prompt: Prompt, factors: Mapping[str, LoraFactors]) -> Encoded:
        cached = self._cache.get(prompt)
        if cached is None:
            self._check_adapters(prompt, factors)
            num_forgotten = self._num_forgotten
            cached = await self._batcher.submit(_Waiting(prompt, factors))
            # What was forgotten meanwhile must not come back.
            if not prompt.adapters or num_forgotten == self._num_forgotten:
                self._cache.put(prompt, cached)
        return cached

    def _run(self, waiting: Sequence[_Waiting]) -> list[Encoded]:
        factors = {name: own for each in waiting for name, own in each.factors.items()}
        return self._reader.read([each.prompt for each in waiting], factors)

    async def _padded(
        self, encoded: Encoded, length: int, prompt: Prompt, factors: Mapping[str, LoraFactors]
    ) -> Encoded:
        missing = length - len(encoded.states)
        if not missing:
            return encoded
        empty = (await self._encoded(prompt._replace(text=""), factors)).states
        return Encoded(torch.cat([encoded.states] + [empty] * (missing // len(empty))), encoded.pooled)

    def _check_adapters(self, prompt: Prompt, factors: Mapping[str, LoraFactors]) -> None:
        resident = self._reader.slots.resident if prompt.adapters else ()
        for name, _ in prompt.adapters:
            if name not in resident:
                self._reader.slots.check(factors[name])
