from __future__ import annotations

import pytest

from core.errors import InvalidRequest
from deployments.pipeline import weighting
from deployments.pipeline.weighting import parse_weights


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red cat",
        "a well-known man in a t-shirt, 3-d",
        "a man (smiling), with a hat",
        "(((masterpiece)))",
        "face ((",
        "a +b -- c",
        '"quoted" text, 50% grey',
    ],
)
def test_prompts_without_weights_are_read_literally(text: str) -> None:
    assert parse_weights(text) is None


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("a (red hair)1.3 man", [1.0, 1.3, 1.0]),
        ("word++ cat", [1.21, 1.0]),
        ("a red- cat", [1.0, 0.9, 1.0]),
        ("((a)1.1 b)1.2", [1.32, 1.2]),
    ],
)
def test_weights_are_understood(text: str, weights: list[float]) -> None:
    said = parse_weights(text)
    assert said is not None
    assert [part.weight for part in said.prompts[0].children] == pytest.approx(weights)


@pytest.mark.parametrize("text", ['("a cat", "a dog").blend(0.7, 0.3)', '("a cat", "a dog").and()'])
def test_blends_and_conjunctions_are_understood(text: str) -> None:
    assert parse_weights(text) is not None


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("(a)" * 65, weighting.MAX_OPERATORS),
        ("a++ " * 65, weighting.MAX_OPERATORS),
        ("(" * 21 + "a" + ")" * 21, weighting.MAX_NESTING),
        ("a+ b " * 33, weighting.MAX_WEIGHTED_PARTS),
    ],
)
def test_prompts_that_would_cost_too_much_are_refused(text: str, limit: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_weights(text)
    assert (refused.value.field, refused.value.limit) == ("prompt", limit)


@pytest.mark.parametrize(
    "text", ["cat.swap(dog)", "withLora(me, 1) cat", '("a cat", "a dog").blend(0.7)', '("a", "b").and(1)']
)
def test_syntax_that_cannot_be_honoured_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_weights(text)


def test_deep_nesting_takes_linear_time() -> None:
    """Exponential in compel's own grammar: without memoization this one would outlast any test run."""
    assert parse_weights("(" * 20 + "a" + ")" * 20) is None
