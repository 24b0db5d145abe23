"""The two text encoders of Stable Diffusion XL as one: CLIP's and OpenCLIP's states side by side.

Knows how the families' encoders are read and loaded; how text is encoded is for ``text``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import torch

from core.settings import PipelineSettings
from core.training import MAX_ADAPTERS
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.prompts import PromptEncoder, Prompts
from deployments.pipeline.text import NOT_ADAPTED, Adaptation, Encoded, Reading
from weights import registry
from weights.adapters import SECOND_TEXT_ENCODER
from weights.errors import BrokenWeights

# Both are read before their last layer, without the final norm (Podell et al. 2023, §2.1 and diffusers).
FIRST, SECOND = Reading(layer=2, normed=False), Reading(layer=2, normed=False, pooled=True)
_SECOND_PREFIX = f"{SECOND_TEXT_ENCODER}."
Result = TypeVar("Result")


class TwoPromptEncoders:
    """Prompts of Stable Diffusion XL. Both encoders share one vocabulary; the second one is pooled.

    With ``zero_empty`` an empty negative prompt is all zeros, as ``force_zeros_for_empty_prompt`` of a
    ``model_index.json`` has it. Weights of words act in both. Factors of adapters for the second encoder
    have paths that begin with "text_encoder_2.".
    """

    def __init__(self, first: PromptEncoder, second: PromptEncoder, *, zero_empty: bool) -> None:
        self._first, self._second = first, second
        self._zero_empty = zero_empty
        self.max_clip_skip = min(first.max_clip_skip, second.max_clip_skip)

    async def embeds(
        self,
        prompt: str,
        negative_prompt: str | None,
        clip_skip: int = 0,
        adapted: Adaptation = NOT_ADAPTED,
    ) -> Embeds:
        """See :meth:`Prompts.embeds`; ``[tokens, both widths]``, and the second one's pooled ``[width]``."""
        zeroed = self._zero_empty and negative_prompt is not None and not negative_prompt.strip()
        told = None if zeroed else negative_prompt
        own, other = _parted(adapted)
        (left, left_negative), (right, right_negative) = await _both(
            self._first.encode_both(prompt, told, clip_skip, own),
            self._second.encode_both(prompt, told, clip_skip, other),
        )
        positive = _joined(left, right)
        if zeroed:
            negative = _zeros_like(positive)
        elif left_negative is None or right_negative is None:
            return Embeds(positive.states, None, positive.pooled)
        else:
            negative = _joined(left_negative, right_negative)
        return Embeds(positive.states, negative.states, positive.pooled, negative.pooled)

    def forget(self, adapter_id: str) -> None:
        """See :meth:`Prompts.forget`."""
        self._first.forget(adapter_id)
        self._second.forget(adapter_id)

    def close(self) -> None:
        self._first.close()
        self._second.close()


def load_prompts(model_id: str, settings: PipelineSettings, device: str) -> Prompts:
    """The text encoders of ``model_id``, one or two. Raises what the registry raises."""
    entries = settings.embedding_cache_entries
    if not registry.has_part(model_id, SECOND_TEXT_ENCODER):
        tokenizer, encoder = registry.load_text(model_id)
        return PromptEncoder(tokenizer, encoder.to(device), cache_entries=entries)
    # In float32 the second one has 2.8 GB. A GPU computes them in float16, as they are published.
    dtype = torch.float16 if device != "cpu" and settings.precision != "float32" else torch.float32
    tokenizer, encoder = registry.load_text(model_id, dtype=dtype)
    other_tokenizer, other = registry.load_second_text(model_id, dtype=dtype)
    if tokenizer.get_vocab() != other_tokenizer.get_vocab():
        raise BrokenWeights(f"The two tokenizers of {model_id} do not have the same words.")
    first = PromptEncoder(tokenizer, encoder.to(device), cache_entries=entries, dtype=dtype, reading=FIRST)
    # A slot of rank 64 takes 84 MB in it when an adapter is on its attention, in float32.
    second = PromptEncoder(
        other_tokenizer,
        other.to(device),
        cache_entries=entries,
        dtype=dtype,
        reading=SECOND,
        num_slots=MAX_ADAPTERS,
    )
    return TwoPromptEncoders(first, second, zero_empty=registry.zeroes_empty_prompts(model_id))


def _zeros_like(encoded: Encoded) -> Encoded:
    pooled = None if encoded.pooled is None else torch.zeros_like(encoded.pooled)
    return Encoded(torch.zeros_like(encoded.states), pooled)


def _joined(left: Encoded, right: Encoded) -> Encoded:
    return Encoded(torch.cat([left.states, right.states], dim=-1), right.pooled)


def _parted(adapted: Adaptation) -> tuple[Adaptation, Adaptation]:
    """What each encoder is adapted by. One that an adapter has no layers for is encoded without it."""
    own, other = {}, {}
    for name, factors in adapted.factors.items():
        other[name] = {
            path.removeprefix(_SECOND_PREFIX): pair
            for path, pair in factors.items()
            if path.startswith(_SECOND_PREFIX)
        }
        own[name] = {path: pair for path, pair in factors.items() if not path.startswith(_SECOND_PREFIX)}
    return _of(adapted, own), _of(adapted, other)


def _of(adapted: Adaptation, factors: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]) -> Adaptation:
    acting = {name: layers for name, layers in factors.items() if layers}
    return Adaptation(tuple(use for use in adapted.stack if use[0] in acting), acting)


async def _both(first: Awaitable[Result], second: Awaitable[Result]) -> tuple[Result, Result]:
    """Side by side; both failures are awaited and the first one is told."""
    left, right = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(left, BaseException):
        raise left
    if isinstance(right, BaseException):
        raise right
    return left, right
