"""What a prompt in compel's weighting syntax says. Knows the grammar; nothing of tensors."""

from __future__ import annotations

from typing import Any

import pyparsing
from compel import Compel
from compel.prompt_parser import (
    Blend,
    Conjunction,
    CrossAttentionControlSubstitute,
    FlattenedPrompt,
    PromptParser,
)

from deployments.pipeline.weighting import MAX_WEIGHTED_PARTS, refusal

# The grammar is nested and backtracks: without memoization, five brackets take a second and ten take hours.
pyparsing.ParserElement.enable_packrat(cache_size_limit=None)


def parse(text: str) -> Conjunction | None:
    """What ``text`` says, None when it weighs nothing and is to be read literally.

    Raises :class:`InvalidRequest` for syntax that cannot be honoured.
    """
    try:
        said: Conjunction = Compel.parse_prompt_string(text)
    except (
        pyparsing.ParseBaseException,
        PromptParser.ParsingException,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise refusal("weighting syntax that does not parse") from error
    return said if _is_weighted(said) else None


def is_one_text(said: Conjunction) -> bool:
    """Whether what :func:`parse` found is one text with weights, no blend or conjunction of several."""
    return len(said.prompts) == 1 and isinstance(said.prompts[0], FlattenedPrompt)


def plain_texts(said: Conjunction) -> list[tuple[str, float]]:
    """The texts that ``said`` is made of, without weights of words, and each one's share of the whole.

    Raises ZeroDivisionError where the weights of a normalized blend cancel each other out.
    """
    total = sum(said.weights)
    return [
        (text, share * weight / total)
        for prompt, weight in zip(said.prompts, said.weights, strict=True)
        for text, share in _texts_of(prompt)
    ]


def _texts_of(prompt: FlattenedPrompt | Blend) -> list[tuple[str, float]]:
    if isinstance(prompt, FlattenedPrompt):
        return [(" ".join(part.text for part in prompt.children), 1.0)]
    total = sum(prompt.weights) if prompt.normalize_weights else 1.0
    return [
        (text, share * weight / total)
        for inner, weight in zip(prompt.prompts, prompt.weights, strict=True)
        for text, share in _texts_of(inner)
    ]


def _is_weighted(said: Conjunction) -> bool:
    parts = [part for prompt in said.prompts for part in _parts(prompt)]
    if any(isinstance(part, CrossAttentionControlSubstitute) for part in parts):
        raise refusal(".swap(), which is not supported")
    num_weighted = sum(part.weight != 1 for part in parts)
    if num_weighted > MAX_WEIGHTED_PARTS:
        raise refusal(f"more than {MAX_WEIGHTED_PARTS} weighted parts", MAX_WEIGHTED_PARTS)
    return num_weighted > 0 or not is_one_text(said)


def _parts(prompt: Any) -> list[Any]:
    if isinstance(prompt, FlattenedPrompt):
        return list(prompt.children)
    return [part for inner in prompt.prompts for part in _parts(inner)]
