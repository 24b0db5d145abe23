"""Prompts to embeddings: tokenization, the CLIP text encoder, weighting, long prompts, adapters, a cache.

A plain prompt gives what diffusers' ``StableDiffusionPipeline.encode_prompt`` gives, with its adapters what
that gives once they are loaded; a longer one is encoded in chunks of the encoder's context instead of being
cut. Knows nothing of pictures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core.errors import InvalidRequest
from core.training import MAX_ADAPTERS
from deployments.engine.lora import LoraFactors, LoraSlots
from deployments.pipeline.batcher import Batcher
from deployments.pipeline.embedding_cache import EmbeddingCache
from deployments.pipeline.weighting import parse_weights

if TYPE_CHECKING:
    from compel.prompt_parser import Conjunction

MAX_CHUNKS = 8
_MAX_BATCH = 16
# Adapters that act in one forward pass. A slot of rank 64 takes 19 MB in the encoder of Stable Diffusion 1.x
# when an adapter is on its attention, in float32.
_NUM_SLOTS = 8
assert _NUM_SLOTS >= MAX_ADAPTERS, "one prompt always fits"

# Ids and weights of adapters, sorted by id.
Stack = tuple[tuple[str, float], ...]


class Adaptation(NamedTuple):
    """Adapters that act while prompts are encoded, and their factors by id."""

    stack: Stack = ()
    factors: Mapping[str, LoraFactors] = MappingProxyType({})


NOT_ADAPTED = Adaptation()


class Prompt(NamedTuple):
    """A text, how many layers before the encoder's final one are left out, and what adapts the others."""

    text: str
    clip_skip: int = 0
    adapters: Stack = ()


class _Waiting(NamedTuple):
    """A prompt on its way into a batch, and the factors of its adapters by their ids."""

    prompt: Prompt
    factors: Mapping[str, LoraFactors]


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
        self._batcher: Batcher[_Waiting, torch.Tensor] = Batcher(self._run, _MAX_BATCH, name="prompts")
        self._slots = LoraSlots(self._encoder, _NUM_SLOTS)
        self._num_forgotten = 0

    async def encode_pair(
        self,
        prompt: str,
        negative_prompt: str | None,
        clip_skip: int = 0,
        adapted: Adaptation = NOT_ADAPTED,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings ``[tokens, width]`` of a prompt and its negative, float32 on the CPU, equally long.

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
            return await self.encode(told, factors), None
        unwanted = Prompt(negative_prompt, adapters=adapted.stack)
        # Both failures are awaited; the prompt's own one is the one to tell.
        positive, negative = await asyncio.gather(
            self.encode(told, factors), self.encode(unwanted, factors), return_exceptions=True
        )
        if isinstance(positive, BaseException):
            raise positive
        if isinstance(negative, InvalidRequest):
            raise InvalidRequest(negative.message, field="negative_prompt", limit=negative.limit)
        if isinstance(negative, BaseException):
            raise negative
        length = max(len(positive), len(negative))
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
        cached = self._cache.get(prompt)
        if cached is None:
            self._check_adapters(prompt, factors)
            num_forgotten = self._num_forgotten
            cached = await self._batcher.submit(_Waiting(prompt, factors))
            # What was forgotten meanwhile must not come back.
            if not prompt.adapters or num_forgotten == self._num_forgotten:
                self._cache.put(prompt, cached)
        return cached

    def forget(self, adapter_id: str) -> None:
        """Drop the adapter and every embedding that it acted on; a request under way finishes with it."""
        self._num_forgotten += 1
        self._cache.drop(lambda prompt: any(name == adapter_id for name, _ in prompt.adapters))
        self._slots.forget(adapter_id)

    @torch.inference_mode()
    def encode_batch(
        self, prompts: Sequence[Prompt], factors: Mapping[str, LoraFactors] = NOT_ADAPTED.factors
    ) -> list[torch.Tensor]:
        """Embeddings of ``prompts`` in their order: one forward for all that are plain and short, whatever
        their adapters, as long as these have slots together."""
        encoded: dict[Prompt, torch.Tensor] = {}
        plain: list[Prompt] = []
        for prompt in dict.fromkeys(prompts):
            weighted = parse_weights(prompt.text)
            num_tokens = len(self._tokenizer(prompt.text).input_ids)
            self._check_length(num_tokens)
            if weighted is None and num_tokens <= self._context_tokens:
                plain.append(prompt)
            else:
                encoded[prompt] = self._encode_chunks(prompt, weighted, factors)
        for group in _groups(plain):
            encoded.update(zip(group, self._encode_plain(group, factors), strict=True))
        return [encoded[prompt] for prompt in prompts]

    def close(self) -> None:
        self._batcher.close()

    def _run(self, waiting: Sequence[_Waiting]) -> list[torch.Tensor]:
        factors = {name: own for each in waiting for name, own in each.factors.items()}
        return self.encode_batch([each.prompt for each in waiting], factors)

    def _encode_plain(
        self, prompts: Sequence[Prompt], factors: Mapping[str, LoraFactors]
    ) -> list[torch.Tensor]:
        tokens = self._tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length",
            max_length=self._context_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self._encoder.device)
        with self._slots.acting(self._slots.rows([prompt.adapters for prompt in prompts], factors)):
            output = self._encoder(tokens, output_hidden_states=any(prompt.clip_skip for prompt in prompts))
        return [_finished(self._skipped(output, prompt.clip_skip)[row]) for row, prompt in enumerate(prompts)]

    def _skipped(self, output: Any, clip_skip: int) -> torch.Tensor:
        """Hidden states ``[batch, tokens, width]`` after the layers that ``clip_skip`` leaves, normalized."""
        if clip_skip == 0:
            states: torch.Tensor = output.last_hidden_state
        else:
            states = self._norm(output.hidden_states[-(clip_skip + 1)])
        return states

    def _encode_chunks(
        self, prompt: Prompt, weighted: Conjunction | None, factors: Mapping[str, LoraFactors]
    ) -> torch.Tensor:
        # Only prompts that are weighted or long need it, and it takes long to import.
        from compel import Compel, EmbeddingsProvider

        encoder = _SkippingEncoder(self, prompt, factors)
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

    async def _padded(
        self, embeddings: torch.Tensor, length: int, prompt: Prompt, factors: Mapping[str, LoraFactors]
    ) -> torch.Tensor:
        if len(embeddings) == length:
            return embeddings
        empty = await self.encode(prompt._replace(text=""), factors)
        return torch.cat([embeddings] + [empty] * ((length - len(embeddings)) // len(empty)))

    def _check_adapters(self, prompt: Prompt, factors: Mapping[str, LoraFactors]) -> None:
        resident = self._slots.resident if prompt.adapters else ()
        for name, _ in prompt.adapters:
            if name not in resident:
                self._slots.check(factors[name])

    def _check_length(self, num_tokens: int) -> None:
        limit = MAX_CHUNKS * self._context_tokens
        if num_tokens > limit:
            raise InvalidRequest(f"The prompt is over {limit} tokens.", field="prompt", limit=limit)


class _SkippingEncoder:
    """The text encoder as compel calls it, its layers already skipped (compel's own modes fail) and
    adapted as ``prompt`` wants it, every row alike."""

    def __init__(self, prompts: PromptEncoder, prompt: Prompt, factors: Mapping[str, LoraFactors]) -> None:
        self._prompts = prompts
        self._prompt = prompt
        self._factors = factors
        self.device = prompts._encoder.device
        self.dtype = prompts._encoder.dtype

    def __call__(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: object
    ) -> SimpleNamespace:
        slots, clip_skip = self._prompts._slots, self._prompt.clip_skip
        with slots.acting(slots.rows([self._prompt.adapters] * len(tokens), self._factors)):
            output = self._prompts._encoder(tokens, attention_mask, output_hidden_states=clip_skip > 0)
        return SimpleNamespace(last_hidden_state=self._prompts._skipped(output, clip_skip))


def _groups(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """``prompts`` in their order, in as few groups as their adapters have slots for."""
    group: list[Prompt] = []
    together: set[str] = set()
    for prompt in prompts:
        names = {name for name, _ in prompt.adapters}
        if len(together | names) > _NUM_SLOTS:
            yield group
            group, together = [], set()
        group.append(prompt)
        together |= names
    if group:
        yield group


def _finished(states: torch.Tensor) -> torch.Tensor:
    return states.float().cpu().contiguous()
