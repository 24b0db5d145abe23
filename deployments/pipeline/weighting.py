"""The prompt-weighting syntax of compel: which prompts use it, and what they say.

``(red hair)1.3``, ``word++``, ``word-``, ``("a cat", "a dog").blend(0.7, 0.3)``, ``("a", "b").and()``.
Knows the grammar and its limits; nothing of tensors.
"""

from __future__ import annotations

import re
from typing import Any

import pyparsing
from compel import Compel
from compel.prompt_parser import Conjunction, CrossAttentionControlSubstitute, FlattenedPrompt, PromptParser

from core.errors import InvalidRequest

# Parsing takes 3 ms for each of these, and each weight below 1 one more pass of the text encoder.
MAX_OPERATORS = 64
MAX_NESTING = 20
MAX_WEIGHTED_PARTS = 32

_OPERATOR = re.compile(r"[(]|[-+]+(?=[\s,.)\"]|$)")
_LORA = re.compile(r"\b(?:useLora|withLora)\s*\(")

# The grammar is nested and backtracks: without memoization, five brackets take a second and ten take hours.
pyparsing.ParserElement.enable_packrat(cache_size_limit=None)


def parse_weights(text: str) -> Conjunction | None:
    """What ``text`` says in weighting syntax, or None when it uses none and is to be read literally.

    Raises :class:`InvalidRequest` for syntax that cannot be honoured.
    """
    num_operators = len(_OPERATOR.findall(text))
    if num_operators == 0:
        return None
    if num_operators > MAX_OPERATORS:
        raise _refusal(f"more than {MAX_OPERATORS} brackets and weights", MAX_OPERATORS)
    if _nesting(text) > MAX_NESTING:
        raise _refusal(f"brackets nested more than {MAX_NESTING} deep", MAX_NESTING)
    if _LORA.search(text):
        raise _refusal("a LoRA, which prompts cannot name")
    try:
        said: Conjunction = Compel.parse_prompt_string(text)
    except (
        pyparsing.ParseBaseException,
        PromptParser.ParsingException,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise _refusal("weighting syntax that does not parse") from error
    return said if _is_weighted(said) else None


def _is_weighted(said: Conjunction) -> bool:
    parts = [part for prompt in said.prompts for part in _parts(prompt)]
    if any(isinstance(part, CrossAttentionControlSubstitute) for part in parts):
        raise _refusal(".swap(), which is not supported")
    num_weighted = sum(part.weight != 1 for part in parts)
    if num_weighted > MAX_WEIGHTED_PARTS:
        raise _refusal(f"more than {MAX_WEIGHTED_PARTS} weighted parts", MAX_WEIGHTED_PARTS)
    return num_weighted > 0 or len(said.prompts) != 1 or not isinstance(said.prompts[0], FlattenedPrompt)


def _parts(prompt: Any) -> list[Any]:
    if isinstance(prompt, FlattenedPrompt):
        return list(prompt.children)
    return [part for inner in prompt.prompts for part in _parts(inner)]


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif character == ")":
            depth = max(0, depth - 1)
    return deepest


def _refusal(what: str, limit: int | None = None) -> InvalidRequest:
    return InvalidRequest(f"The prompt holds {what}.", field="prompt", limit=limit)
