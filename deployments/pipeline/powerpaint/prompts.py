"""Task, words and fitting degree to embeddings, by PowerPaint's learned tokens.

Knows text; nothing of masks, pictures or the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

import torch

from core.errors import InvalidRequest
from core.specs import Task
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.powerpaint.presets import PRESETS, Preset
from deployments.pipeline.prompts import PromptEncoder
from deployments.pipeline.text import NOT_ADAPTED, Adaptation
from deployments.pipeline.weighting import parse_weights
from weights.powerpaint import words_of

Pair = tuple[torch.Tensor, torch.Tensor | None]


class Layout(StrEnum):
    """Who reads the task tokens: the UNet, among the words of its prompt, or a branch beside it."""

    V1 = "v1"
    V2 = "v2"


class TaskPrompts:
    """The prompts of the tasks of one family that has learned tokens.

    Without ``branch_prompts``, ``prompts`` has a text encoder with the tokens (v1). With them it is the
    plain text encoder, and theirs is the one of the branch (v2). Both share their caches and batches with
    other requests.
    """

    def __init__(self, prompts: PromptEncoder, branch_prompts: PromptEncoder | None = None) -> None:
        self._prompts = prompts
        self._branch_prompts = branch_prompts
        self.layout = Layout.V1 if branch_prompts is None else Layout.V2

    async def encode(
        self,
        task: Task,
        prompt: str,
        negative_prompt: str | None,
        *,
        fitting_degree: float = 1.0,
        clip_skip: int = 0,
        adapted: Adaptation = NOT_ADAPTED,
    ) -> Embeds:
        """What the UNet reads for ``task``; no negative prompt without guidance.

        ``fitting_degree`` goes in a straight line from the embeddings with the task's loose token to those
        with its own, as the paper interpolates them. Raises :class:`InvalidRequest`.
        """
        preset = PRESETS[task]
        if preset.scene or self.layout is Layout.V1:
            await _check_can_go_on(prompt, "prompt")
        if self.layout is Layout.V1:
            return await self._with_tokens(
                preset, prompt, negative_prompt, fitting_degree, clip_skip, adapted
            )
        words = _joined(prompt, preset.scene)
        return Embeds(*await self._prompts.encode_pair(words, negative_prompt, clip_skip, adapted))

    async def for_branch(self, task: Task, *, fitting_degree: float = 1.0, guided: bool = True) -> Embeds:
        """What the branch of a v2 family reads for ``task``: the learned tokens alone."""
        assert self._branch_prompts is not None, "only a v2 family has a branch"
        branch = self._branch_prompts

        def encode(token: str, negative_token: str) -> Awaitable[Pair]:
            return branch.encode_pair(words_of(token), words_of(negative_token) if guided else None)

        return await _interpolated(encode, PRESETS[task], fitting_degree)

    def forget(self, adapter_id: str) -> None:
        """As :meth:`PromptEncoder.forget`. The branch's prompts know no adapters."""
        self._prompts.forget(adapter_id)

    def close(self) -> None:
        """Let the branch's thread end; the family's own prompts belong to its other requests too."""
        if self._branch_prompts is not None:
            self._branch_prompts.close()

    async def _with_tokens(
        self,
        preset: Preset,
        prompt: str,
        negative_prompt: str | None,
        degree: float,
        clip_skip: int,
        adapted: Adaptation,
    ) -> Embeds:
        """v1: the words first, then the task."""
        words, negative = _joined(preset.scene, prompt), None
        if negative_prompt is not None:
            await _check_can_go_on(negative_prompt, "negative_prompt")
            negative = _joined(negative_prompt, preset.negative_words, separator=", ")

        def encode(token: str, negative_token: str) -> Awaitable[Pair]:
            unwanted = None if negative is None else _joined(negative, words_of(negative_token))
            told = _joined(words, words_of(token))
            return self._prompts.encode_pair(told, unwanted, clip_skip, adapted)

        return await _interpolated(encode, preset, degree)


async def _interpolated(
    encode: Callable[[str, str], Awaitable[Pair]], preset: Preset, degree: float
) -> Embeds:
    fitting = encode(preset.token, preset.negative_token)
    if not preset.uses_fitting_degree:
        return Embeds(*await fitting)
    other = encode(preset.loose_token, preset.loose_negative_token)
    # Side by side, so that they share a batch; both failures are awaited and the first one is told.
    tight, loose = await asyncio.gather(fitting, other, return_exceptions=True)
    if isinstance(tight, BaseException):
        raise tight
    if isinstance(loose, BaseException):
        raise loose
    positive = torch.lerp(loose[0], tight[0], degree)
    if loose[1] is None or tight[1] is None:
        return Embeds(positive, None)
    return Embeds(positive, torch.lerp(loose[1], tight[1], degree))


def _joined(*parts: str, separator: str = " ") -> str:
    return separator.join(part for part in parts if part)


async def _check_can_go_on(text: str, field: str) -> None:
    """A blend or a conjunction is whole prompts: a task's words behind it would belong to none of them."""
    try:
        said = await asyncio.to_thread(parse_weights, text)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field=field, limit=error.limit) from error
    if said is None:
        return
    from deployments.pipeline.weighting_grammar import is_one_text

    if not is_one_text(said):
        raise InvalidRequest("A task cannot be combined with .blend() or .and().", field=field)
