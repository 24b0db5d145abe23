"""Which prompts use the prompt-weighting syntax of compel, and its limits.

``(red hair)1.3``, ``word++``, ``word-``, ``("a cat", "a dog").blend(0.7, 0.3)``, ``("a", "b").and()``. What
such a prompt says is for ``weighting_grammar``, which is imported for the first of them, and compel with it:
every replica of a pipeline would have to wait for it at its start. Knows nothing of tensors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from core.errors import InvalidRequest

if TYPE_CHECKING:
    from compel.prompt_parser import Conjunction

# Parsing takes 3 ms for each of these, and each weight below 1 one more pass of the text encoder.
MAX_OPERATORS = 64
MAX_NESTING = 20
MAX_WEIGHTED_PARTS = 32

_OPERATOR = re.compile(r"[(]|[-+]+(?=[\s,.)\"]|$)")
_LORA = re.compile(r"\b(?:useLora|withLora)\s*\(")


def parse_weights(text: str) -> Conjunction | None:
    """What ``text`` says in weighting syntax, or None when it uses none and is to be read literally.

    Raises :class:`InvalidRequest` for syntax that cannot be honoured.
    """
    num_operators = len(_OPERATOR.findall(text))
    if num_operators == 0:
        return None
    if num_operators > MAX_OPERATORS:
        raise refusal(f"more than {MAX_OPERATORS} brackets and weights", MAX_OPERATORS)
    if _nesting(text) > MAX_NESTING:
        raise refusal(f"brackets nested more than {MAX_NESTING} deep", MAX_NESTING)
    if _LORA.search(text):
        raise refusal("a LoRA, which prompts cannot name")
    from deployments.pipeline.weighting_grammar import parse

    return parse(text)


def refusal(what: str, limit: int | None = None) -> InvalidRequest:
    """What tells a client that its prompt ``holds`` something that cannot be honoured."""
    return InvalidRequest(f"The prompt holds {what}.", field="prompt", limit=limit)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif character == ")":
            depth = max(0, depth - 1)
    return deepest
